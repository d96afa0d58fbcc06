"""Where the lab keeps what: a state file (0600), a cache that stays, data that `down` removes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overlay.errors import UsageError

CACHE = Path("/var/cache/v6-overlay")
# Data roots of the lab's hosts: below the cache because hard links need one file system.
HOSTS_DATA = CACHE / "hosts"
RUNTIME = Path("/run/v6-overlay-lab")
LABEL = "org.v6-overlay.lab=1"
NETWORK = "v6lab"
BRIDGE = "br-v6lab"


def state_file() -> Path:
    """Path of the lab's state file; `V6_OVERLAY_LAB_STATE` overrides it."""
    return Path(os.environ.get("V6_OVERLAY_LAB_STATE", "/var/lib/v6-overlay/lab/state.json"))


def ssh_key() -> Path:
    """The private key that opens every host; made at `up`, removed at `down`."""
    return state_file().parent / "ssh"


@dataclass
class LabState:
    """What `up` made, and what a client needs to use it. Holds passwords: never print it whole."""

    hosts: dict[str, dict[str, str]] = field(default_factory=dict)
    server_url: str = ""
    api_path: str = "/api"
    researcher: dict[str, str] = field(default_factory=dict)
    admin: dict[str, str] = field(default_factory=dict)
    collaboration_id: int = 1
    organizations: dict[str, int] = field(default_factory=dict)
    image: str = ""
    image_digest: str = ""
    ca_fingerprint: str = ""
    bridge: str = BRIDGE
    subnet: str = ""
    recipe: str = ""
    ready: bool = False

    @property
    def stations(self) -> list[str]:
        """Names of the station hosts, in order."""
        return [name for name in self.hosts if name != "central"]

    def save(self) -> None:
        """Write the state file so that a reader sees the old text or the new one, never a part."""
        path = state_file()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            json.dump(self.__dict__, stream, indent=1)
        part.replace(path)


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second `up` or `down` waiting until the first has ended, however it ends."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def load_state() -> LabState | None:
    """The state on disk, or None where no lab was made.

    Raises:
        UsageError: the file is not a lab's state.
    """
    try:
        document: dict[str, Any] = json.loads(state_file().read_text())
        return LabState(**document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{state_file()} is not a lab's state file",
            why=str(error),
            next_step="v6-overlay lab down",
        ) from None
