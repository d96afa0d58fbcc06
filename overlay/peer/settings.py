"""The times and bounds of the mesh, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Seconds and bytes; the defaults suit hospitals, tests shorten them.

    `heartbeat` + `silent` must stay below 10 s: that is the promise for a peer that has died.
    """

    heartbeat: float = 2.0
    silent: float = 8.0
    # A stranger may hold a connection slot this long, and a dialled peer may take this long.
    handshake: float = 10.0
    # How long an aborting party waits for the others to take its reason.
    parting: float = 3.0
    # Unread messages from one peer beyond which its connection is not read.
    max_unread: int = 256 << 20
    # Unsent bytes to one peer beyond which `send` waits.
    max_queued: int = 256 << 20
