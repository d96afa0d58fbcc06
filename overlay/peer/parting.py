"""Why a station stopped: an error's name and its one sentence travel, data never does."""

from __future__ import annotations

from typing import Any

from overlay.errors import OverlayError, PeerAborted, ProtocolError
from overlay.peer.roster import Roster
from overlay.wire import canonical_json

_LONGEST = 400


def encode(error: BaseException, me: str) -> bytes:
    """The body of an ABORT; an abort that is passed on keeps the station that began it.

    An exception that is not ours becomes "InternalError": its text might hold data.
    """
    if not isinstance(error, OverlayError):
        what = "the algorithm failed at this station"
        return canonical_json({"error": "InternalError", "what": what, "station": me})
    origin = error.station if isinstance(error, PeerAborted) else me
    return canonical_json({"error": error.name, "what": error.what[:_LONGEST], "station": origin})


def decode(body: dict[str, Any], sender: str, roster: Roster) -> PeerAborted:
    """What a peer's ABORT means here. What it says about others is only its word.

    Raises:
        ProtocolError: the body is of another form.
    """
    name, what, origin = (body.get(key) for key in ("error", "what", "station"))
    if not (isinstance(name, str) and isinstance(what, str) and name.isidentifier()):
        raise ProtocolError("an abort gives no reason")
    # The text is a peer's: no control characters into logs and terminals.
    what = "".join(c if c.isprintable() else " " for c in what[:_LONGEST])
    station = origin if origin in [m.station for m in roster.members] else sender
    if station == sender or name != "PeerAborted":
        return PeerAborted(f"{sender} stopped the run: {name}: {what}", station=sender)
    return PeerAborted(what, why=f"{sender} passed this on", station=str(station))
