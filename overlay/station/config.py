"""What a station knows: the administrator's policy, the state made by join, the node's own API.

station.yaml belongs to the administrator (allow-list, opt-ins) and is read anew at every use;
state.json belongs to join and the agent.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from overlay.drivers import files
from overlay.errors import UsageError
from overlay.station.admission import Membership, pinned

CONFIG = Path("/etc/v6-overlay/station.yaml")
STATE = Path("/var/lib/v6-overlay/station")
PROXY_SOCKET = Path("/run/v6-overlay/proxy/docker.sock")

_HEADER = """\
# v6-overlay station. images: algorithm images that may use the overlay, by digest
# (v6-overlay image allow|list|remove). address_book: true feeds vantage6's VPN address book.
"""


@dataclass(frozen=True)
class Policy:
    """The administrator's choices.

    Attributes:
        images: allow-list entries, "repo@sha256:<hex>" or "sha256:<hex>".
        address_book: whether vantage6's own address book is fed.
        node_config: the vantage6 node's YAML configuration.
    """

    images: tuple[str, ...] = ()
    address_book: bool = False
    node_config: str = ""


def load_policy(path: Path = CONFIG) -> Policy:
    """The policy; an absent file allows nothing. Raises UsageError when it cannot be understood."""
    raw = _read(path)
    images = raw.get("images") or []
    bad = [entry for entry in images if not (isinstance(entry, str) and pinned(entry))]
    if not isinstance(images, list) or bad:
        raise UsageError(
            f"{path} has an images entry that is not a digest",
            why=f"{bad[:1]}; expected repo@sha256:<64 hex digits> or sha256:<64 hex digits>",
            next_step="v6-overlay image allow REF",
        )
    book = raw.get("address_book", False)
    if not isinstance(book, bool):
        raise UsageError(f"{path}: address_book must be true or false")
    return Policy(tuple(images), book, str(raw.get("node_config") or ""))


def save_policy(policy: Policy, path: Path = CONFIG) -> None:
    """Write the policy, keeping keys of the file that are not ours to know."""
    raw = _read(path)
    raw.update(
        node_config=policy.node_config,
        images=sorted(set(policy.images)),
        address_book=policy.address_book,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _HEADER + yaml.safe_dump(raw, sort_keys=False)
    files.write(path, text.encode(), 0o644)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read", why=str(error)[:300]) from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UsageError(f"{path} does not hold a mapping")
    return raw


@dataclass(frozen=True)
class NodeApi:
    """Where the vantage6 node's server is and the key that proves the node; never shown."""

    url: str
    api_key: str

    def __repr__(self) -> str:
        return f"NodeApi({self.url!r})"


def load_node(path: Path) -> NodeApi:
    """Server and API key from a vantage6 node's own configuration (4.x).

    Raises:
        UsageError: the file is absent, no node configuration, or lacks a key.
    """
    raw = _read(path) if path.is_file() else None
    if raw is None:
        raise UsageError(
            f"{path} is not there",
            next_step="give --node-config the file that `v6 node files` shows",
        )
    absent = [key for key in ("api_key", "server_url") if not raw.get(key)]
    if absent:
        raise UsageError(
            f"{path} is not a vantage6 node configuration", why=f"it lacks {', '.join(absent)}"
        )
    url = str(raw["server_url"]).rstrip("/")
    if "://" not in url:
        raise UsageError(f"{path}: server_url must begin with https:// or http://")
    if raw.get("port"):
        url += f":{raw['port']}"
    path_part = str(raw.get("api_path", "/api") or "").strip("/")
    return NodeApi(f"{url}/{path_part}" if path_part else url, str(raw["api_key"]))


def hook_missing(path: Path) -> list[str]:
    """The lines that a node's configuration lacks so that the node uses the proxy's socket."""
    raw = _read(path)
    lines = []
    wanted = f"unix://{PROXY_SOCKET}"
    if (raw.get("node_extra_env") or {}).get("DOCKER_HOST") != wanted:
        lines.append(f"node_extra_env: {{DOCKER_HOST: {wanted}}}")
    mount = f"{PROXY_SOCKET.parent}:{PROXY_SOCKET.parent}"
    if mount not in (raw.get("node_extra_mounts") or []):
        lines.append(f"node_extra_mounts: [{mount}]")
    return lines


def load_state(directory: Path = STATE) -> dict[str, Any] | None:
    """What join left, or None where the host has not joined. Raises HostError when damaged."""
    path = directory / "state.json"
    return files.read_json(path) if path.exists() else None


def membership(state: dict[str, Any]) -> Membership:
    """This station and the stations of its collaboration, from its state."""
    return Membership(
        collaboration_id=int(state["collaboration_id"]),
        station=str(state["station"]),
        organization_id=int(state["organization_id"]),
        stations={
            int(station["organization_id"]): str(station["station"])
            for station in state.get("stations", [])
        },
    )
