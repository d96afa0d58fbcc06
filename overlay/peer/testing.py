"""Real groups on one machine: run directories with throwaway identities on loopback addresses.

For tests, benchmarks and simulations only: `address` on a roster replaces name resolution, which
is how many members live on one machine. A station's agent never writes it.
"""

from __future__ import annotations

import json
import secrets
from datetime import datetime, timezone
from pathlib import Path

from overlay import identity

_PORT = 7100


def local_groups(
    n: int, path: Path, *, task_id: int = 1, collaboration_id: int = 1, port: int = _PORT
) -> list[Path]:
    """Write `n` run directories below `path`, for stations hospital-1 to hospital-n.

    Each call makes a collaboration CA of its own and takes a loopback network of its own, so that
    calls do not meet. At most 250 members.

    Returns:
        What to give to `Group.join(path=...)`, in the order of the roster.
    """
    now = datetime.now(timezone.utc)
    ca, ca_key = identity.create_ca("throwaway collaboration", now)
    network = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}"
    # Zero-padded, so that the order of names is the order of numbers.
    width = len(str(n))
    stations = [f"hospital-{i + 1:0{width}}" for i in range(n)]
    members = [
        {
            "station": station,
            "organization_id": i + 1,
            "run_id": i + 1,
            "hostname": identity.run_hostname(station, collaboration_id, task_id, i + 1),
            "address": f"{network}.{i + 1}",
            "port": port,
        }
        for i, station in enumerate(stations)
    ]
    paths = []
    for i, station in enumerate(stations):
        key = identity.new_key()
        csr = identity.load_csr(identity.create_csr(key, station))
        authority = identity.issue_station_ca(ca, ca_key, csr, station, collaboration_id, now)
        chain, run_key = identity.issue_run(
            authority,
            key,
            station=station,
            collaboration_id=collaboration_id,
            task_id=task_id,
            run_id=i + 1,
            now=now,
        )
        roster = {
            "version": 1,
            "collaboration_id": collaboration_id,
            "task_id": task_id,
            "run_id": i + 1,
            "station": station,
            "port": port,
            "members": members,
        }
        paths.append(write_run(path / station, roster, chain, run_key, identity.cert_pem(ca)))
    return paths


def write_run(path: Path, roster: dict[str, object], chain: bytes, key: bytes, ca: bytes) -> Path:
    """Write one run directory and return it."""
    path.mkdir(parents=True, mode=0o700)
    (path / "roster.json").write_text(json.dumps(roster))
    (path / "identity.pem").write_bytes(chain)
    (path / "identity.key").touch(mode=0o600)
    (path / "identity.key").write_bytes(key)
    (path / "ca.pem").write_bytes(ca)
    return path
