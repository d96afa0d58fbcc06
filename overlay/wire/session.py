"""On a connection every frame is from the one peer, to me, for my task, numbered without a gap.

The whole behaviour is the table `NEXT`: a half (one direction) opens with HELLO, then carries data
and heartbeats, and ends with ABORT or BYE, after which nothing may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from overlay.errors import ProtocolError
from overlay.wire.frames import Header, Kind, encode_header


class State(Enum):
    """How far one direction of a connection has come."""

    NEW = "new"
    OPEN = "open"
    ENDED = "ended"


NEXT: dict[tuple[State, Kind], State] = {
    (State.NEW, Kind.HELLO): State.OPEN,
    (State.OPEN, Kind.DATA): State.OPEN,
    (State.OPEN, Kind.HEARTBEAT): State.OPEN,
    (State.OPEN, Kind.ABORT): State.ENDED,
    (State.OPEN, Kind.BYE): State.ENDED,
}


@dataclass(frozen=True)
class Link:
    """Who speaks to whom: vantage6 task id and the run ids of both ends."""

    task: int
    sender: int
    receiver: int


class Half:
    """One direction of a connection; the same rules for what I send and for what I accept."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.state = State.NEW
        self.sequence = 0

    def accept(self, header: Header) -> None:
        """Take the next frame of this direction.

        Raises:
            ProtocolError: naming which of task, sender, receiver, sequence or order is wrong.
        """
        for field, mine in (
            ("task", self.link.task),
            ("sender", self.link.sender),
            ("receiver", self.link.receiver),
            ("sequence", self.sequence),
        ):
            got = getattr(header, field)
            if got != mine:
                raise ProtocolError(f"a frame has the wrong {field}", why=f"{got} is not {mine}")
        self._step(header.kind)

    def stamp(
        self, kind: Kind, *, round: int = 0, total: int = 0, offset: int = 0, length: int = 0
    ) -> bytes:
        """The header bytes of the next frame in this direction, bound and numbered.

        Raises:
            ProtocolError: this frame may not be sent now, or exceeds a bound.
        """
        link = self.link
        raw = encode_header(
            Header(
                kind,
                link.task,
                link.sender,
                link.receiver,
                round,
                self.sequence,
                total,
                offset,
                length,
            )
        )
        self._step(kind)
        return raw

    def _step(self, kind: Kind) -> None:
        following = NEXT.get((self.state, kind))
        if following is None:
            raise ProtocolError(
                "a frame is out of place", why=f"{kind.name} when {self.state.value}"
            )
        self.state = following
        self.sequence += 1
