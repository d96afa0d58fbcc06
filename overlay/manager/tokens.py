"""Join tokens and the one command that uses them; a token is shown once and stored as a hash."""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from overlay import identity
from overlay.drivers import files
from overlay.errors import UsageError
from overlay.manager import settings
from overlay.manager.authority import Authority
from overlay.manager.registry import Registry

LIFE_SECONDS = 3600.0


@dataclass(frozen=True)
class Join:
    """How a station joins; `command` reads the token, a secret, from its standard input."""

    station: str
    url: str
    ca_fingerprint: str
    command: str
    token: str
    expires: float

    @property
    def shell_line(self) -> str:
        """The whole line to paste into a root shell; printf is a builtin, so no argv shows it."""
        return f"printf %s {shlex.quote(self.token)} | {self.command}"

    def as_dict(self, token_file: Path) -> dict[str, str | int]:
        """What a program needs to join the station; the token stays in its file."""
        return {
            "station": self.station,
            "url": self.url,
            "ca_fingerprint": self.ca_fingerprint,
            "command": self.command,
            "token_file": str(token_file),
            "expires": int(self.expires),
        }


def create(
    station: str,
    collaboration_id: int,
    *,
    life: float = LIFE_SECONDS,
    directory: Path = settings.DIRECTORY,
) -> Join:
    """Make a token for a station; an earlier unused one of it becomes worthless.

    Args:
        life: seconds until it expires.

    Raises:
        UsageError: the name is no station name, or the collaboration is not served here.
    """
    if identity.station_name(station) != station:
        raise UsageError(
            f"{station!r} is not a station name",
            why="it is the vantage6 organization's name in lower case, with dashes",
            next_step=f"use {identity.station_name(station)}",
        )
    config = settings.load(directory)
    registry = Registry(directory / "registry.sqlite")
    try:
        if registry.collaboration(collaboration_id) is None:
            raise UsageError(
                f"collaboration {collaboration_id} is not served here",
                next_step=f"v6-overlay init --collaboration {collaboration_id}",
            )
        expires = time.time() + life
        token = registry.new_token(collaboration_id, station, expires)
    finally:
        registry.close()
    pin = Authority(directory).manager_fingerprint()
    command = (
        f"v6-overlay join {config.enrol_url} --ca-fingerprint {pin}"
        f" --node-config /root/.config/vantage6/node/{station}.yaml"
    )
    return Join(station, config.enrol_url, pin, command, token, expires)


def only_collaboration(directory: Path = settings.DIRECTORY) -> int:
    """The number of the collaboration, where there is just one. Raises UsageError."""
    settings.load(directory)
    registry = Registry(directory / "registry.sqlite")
    try:
        numbers = [item.id for item in registry.collaborations()]
    finally:
        registry.close()
    if len(numbers) != 1:
        raise UsageError(
            f"this host serves {len(numbers)} collaborations",
            next_step="name one with --collaboration",
        )
    return numbers[0]


def not_joined(
    stations: tuple[str, ...], collaboration_id: int, directory: Path = settings.DIRECTORY
) -> list[str]:
    """Those of the stations that are not members yet."""
    registry = Registry(directory / "registry.sqlite")
    try:
        members = {item.name for item in registry.stations(collaboration_id)}
    finally:
        registry.close()
    return [name for name in stations if name not in members]


def save(join: Join, directory: Path = settings.DIRECTORY) -> Path:
    """Keep a join token for a program in a file of mode 0600, and return its path."""
    path = files.private_directory(directory / "tokens") / f"{join.station}.token"
    files.write(path, join.token.encode())
    return path
