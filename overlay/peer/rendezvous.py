"""Everybody is waited for, aloud, until the deadline; then the error names who is missing."""

from __future__ import annotations

import time
from collections.abc import Callable

from overlay.errors import PeerMissing
from overlay.peer.mesh import Mesh
from overlay.peer.roster import names

_REPORT_EVERY = 10.0


def meet(
    mesh: Mesh, others: tuple[str, ...], seconds: float, progress: Callable[[str], object]
) -> None:
    """Return once all `others` are connected.

    Args:
        mesh: the running mesh.
        others: the stations that are expected.
        seconds: how long they are waited for.
        progress: told who is being waited for, at each change and every 10 s.

    Raises:
        PeerMissing: naming the missing stations and what their last attempts met.
        PeerLost, PeerAborted, ProtocolError: a peer that was here failed meanwhile.
    """
    began = time.monotonic()
    missing = set(others)
    size = len(others) + 1

    def changed() -> set[str] | None:
        now = set(others) - mesh.mailbox.present
        return now if now != missing else None

    while missing:
        progress(f"{size - len(missing)} of {size} stations here, waiting for {names(missing)}")
        now = time.monotonic()
        if now >= began + seconds:
            raise _missing(mesh, missing, seconds)
        found = mesh.mailbox.wait(changed, min(began + seconds, now + _REPORT_EVERY))
        missing = missing if found is None else found
    if mesh.mailbox.failure is not None:
        raise mesh.mailbox.failure
    progress(f"all {size} stations here after {time.monotonic() - began:.1f} s")


def _missing(mesh: Mesh, missing: set[str], waited: float) -> PeerMissing:
    known = {station: mesh.last_error(station) for station in sorted(missing)}
    return PeerMissing(
        f"{names(missing)} did not appear within {waited:g} s",
        why="; ".join(f"{station}: {why}" for station, why in known.items() if why),
        next_step="look whether these nodes are online and not busy with another task; "
        "the task's rendezvous time can be longer",
        station=names(missing),
    )
