"""Why a station stopped: an error's name and its one sentence travel, data never does.

Of a station that is gone, missing or late everybody says the same, whoever noticed it first; any
other reason is its teller's own.
"""

from __future__ import annotations

from typing import Any

from overlay.errors import OverlayError, PeerAborted, PeerLate, PeerLost, PeerMissing, ProtocolError
from overlay.peer.roster import Roster, names
from overlay.wire import canonical_json

_LONGEST = 400
_OF_OTHERS = {kind.__name__: kind for kind in (PeerLate, PeerLost, PeerMissing)}


def encode(error: BaseException, me: str) -> bytes:
    """The body of an ABORT; an abort that is passed on keeps the station that began it.

    An exception that is not ours becomes "InternalError": its text might hold data.
    """
    if not isinstance(error, OverlayError):
        what = "the algorithm failed at this station"
        return canonical_json({"error": "InternalError", "what": what, "station": me})
    origin = error.station if isinstance(error, PeerAborted) else me
    body = {"error": error.name, "what": error.what[:_LONGEST], "station": origin}
    if error.name in _OF_OTHERS:
        body["about"] = error.station
    return canonical_json(body)


def decode(body: dict[str, Any], sender: str, roster: Roster) -> OverlayError:
    """What a peer's ABORT means here. What it says about others is only its word.

    Returns:
        PeerLost, PeerMissing or PeerLate if that is the reason and it is about a third station,
        with who said so in `why`; otherwise PeerAborted, naming the station that began it.

    Raises:
        ProtocolError: the body is of another form.
    """
    name, what, origin = (body.get(key) for key in ("error", "what", "station"))
    if not (isinstance(name, str) and isinstance(what, str) and name.isidentifier()):
        raise ProtocolError("an abort gives no reason")
    # The text is a peer's: no control characters into logs and terminals.
    what = "".join(c if c.isprintable() else " " for c in what[:_LONGEST])
    stations = {m.station for m in roster.members}
    kind = _OF_OTHERS.get(name)
    third = set(str(body.get("about", "")).split(", ")) - {roster.station}
    if kind is not None and third and third <= stations - {sender}:
        return kind(what, why=f"{sender} reported it", station=names(third))
    station = origin if origin in stations else sender
    if station == sender or name != "PeerAborted":
        return PeerAborted(f"{sender} stopped the run: {name}: {what}", station=sender)
    return PeerAborted(what, why=f"{sender} passed this on", station=str(station))
