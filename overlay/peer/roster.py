"""The roster decides who may take part; without one the container was not admitted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay.errors import NotAdmitted
from overlay.wire import canonical_json

DEFAULT_PATH = Path("/run/v6-overlay")
_FILES = ("identity.pem", "identity.key", "ca.pem")


@dataclass(frozen=True)
class Member:
    """One run of this task. `address` is for local use only and replaces the name's resolution."""

    station: str
    run_id: int
    hostname: str
    port: int
    address: str = ""


@dataclass(frozen=True)
class Roster:
    """This run's view of its task; `members` are sorted by station and include this run."""

    collaboration_id: int
    task_id: int
    run_id: int
    station: str
    members: tuple[Member, ...]
    path: Path

    @property
    def me(self) -> Member:
        """This run's own entry."""
        return self.members[self.index]

    @property
    def index(self) -> int:
        """This run's place among the sorted members."""
        return next(i for i, m in enumerate(self.members) if m.station == self.station)

    def digest(self) -> str:
        """SHA-256 hex of what all members must agree on before they speak."""
        facts = {
            "collaboration": self.collaboration_id,
            "task": self.task_id,
            "members": [[m.station, m.run_id, m.hostname] for m in self.members],
        }
        return hashlib.sha256(canonical_json(facts)).hexdigest()


def names(stations: Iterable[str]) -> str:
    """Station names as text, sorted."""
    return ", ".join(sorted(stations))


def load(path: Path = DEFAULT_PATH) -> Roster:
    """Read what the station's agent put into the container.

    Raises:
        NotAdmitted: nothing was put there, or a refusal was, or what is there is not complete.
    """
    refusal = path / "refused.json"
    if refusal.is_file():
        reason = _read(refusal)
        raise NotAdmitted(
            str(reason.get("what") or "the station refused this run"),
            why=str(reason.get("why", "")),
            next_step=str(reason.get("next", "")),
            station=str(reason.get("station", "")),
        )
    if not (path / "roster.json").is_file():
        raise NotAdmitted(
            "this container was not given the overlay",
            why=f"{path} holds no roster",
            next_step="check at the station that the image carries the label "
            "org.v6-overlay.algorithm=1 and that the node uses the agent: v6-overlay doctor",
        )
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise NotAdmitted("the run's directory is incomplete", why=f"no {', '.join(missing)}")
    try:
        return _parse(_read(path / "roster.json"), path)
    except (KeyError, TypeError, ValueError) as error:
        raise NotAdmitted(
            "the roster is malformed", why=f"{type(error).__name__} {error}"
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotAdmitted(f"{path.name} cannot be read", why=str(error)) from None
    if not isinstance(value, dict):
        raise NotAdmitted(f"{path.name} is not a JSON object")
    return value


def _parse(raw: dict[str, Any], path: Path) -> Roster:
    if raw["version"] != 1:
        raise ValueError(f"version {raw['version']} is not 1")
    members = tuple(
        sorted(
            (
                Member(
                    station=str(m["station"]),
                    run_id=int(m["run_id"]),
                    hostname=str(m["hostname"]),
                    port=int(m.get("port", raw["port"])),
                    address=str(m.get("address", "")),
                )
                for m in raw["members"]
            ),
            key=lambda m: m.station,
        )
    )
    for what in ("station", "run_id", "hostname"):
        if len({getattr(m, what) for m in members}) != len(members):
            raise ValueError(f"a {what} occurs twice")
    mine = [m for m in members if m.station == raw["station"]]
    if not mine or mine[0].run_id != raw["run_id"]:
        raise ValueError("this run is not on it")
    return Roster(
        collaboration_id=int(raw["collaboration_id"]),
        task_id=int(raw["task_id"]),
        run_id=int(raw["run_id"]),
        station=str(raw["station"]),
        members=members,
        path=path,
    )
