"""Who waits gets what is due, or by the deadline an error that names who did not deliver."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from overlay.errors import PeerLate, PeerLost
from overlay.peer.connection import Outgoing
from overlay.peer.mailbox import Mailbox, Message
from overlay.peer.roster import names
from overlay.wire import Payload

# Rounds of the group's own messages; an algorithm's rounds stay below.
OWN_ROUNDS = 1 << 31


class Inbox:
    """How the algorithm's thread waits on the mailbox; deadlines are of the monotonic clock.

    Every method raises the run's failure when there is one and what is due has not arrived.
    """

    def __init__(self, box: Mailbox) -> None:
        self._box = box

    def next(self, waiting: set[str], rounds: range, deadline: float, *, every: bool) -> Message:
        """The next of `waiting`'s messages; with `every`, all of them have to deliver.

        Raises:
            PeerLate: nothing came before the deadline.
            PeerLost: who is waited for has finished.
        """

        def ready() -> Message | None:
            message = self._box.take(waiting, rounds)
            if message is None and self._box.failure is None:
                # Who has finished will send nothing more: to wait for it would be in vain.
                gone = waiting & self._box.departed
                if gone and (every or gone == waiting):
                    who = names(gone)
                    raise PeerLost(f"{who} finished without sending what was due", station=who)
            return message

        message = self._box.wait(ready, deadline)
        if message is None:
            raise self._late(waiting, rounds)
        return message

    def gather(self, stations: Iterable[str], round: int, deadline: float) -> dict[str, Payload]:
        """One message of `round` from each of `stations`; raises as `next`."""
        received: dict[str, Payload] = {}
        waiting = set(stations)
        while waiting:
            message = self.next(waiting, range(round, round + 1), deadline, every=True)
            received[message.sender] = message.payload
            waiting.discard(message.sender)
        return received

    def taken(self, sent: Mapping[str, Outgoing], deadline: float) -> None:
        """Wait until all that was `sent` is out; raises PeerLate."""

        def left() -> list[str]:
            return [s for s, m in sent.items() if not (m.done or s in self._box.departed)]

        if self._box.wait(lambda: None if left() else True, deadline) is None:
            late = names(left())
            raise PeerLate(f"{late} did not take what was sent in time", station=late)

    def _late(self, waiting: set[str], rounds: range) -> PeerLate:
        what = f"{names(waiting)} did not deliver in time"
        if len(rounds) == 1:
            what += f" (round {rounds.start % OWN_ROUNDS})"
        with self._box.changed:
            unread = {s: self._box.rounds(s) for s in sorted(waiting)}
        why = "; ".join(f"{s} sent round {r} instead" for s, r in unread.items() if r)
        return PeerLate(what, why=why, station=names(waiting))
