"""The group of one run: all its members are connected, or an error says who is not, and why.

Every call that waits has a deadline, and every failure is an `OverlayError` that names a station.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from overlay.errors import (
    PeerLate,
    ProtocolError,
    TranscriptMismatch,
    UsageError,
)
from overlay.peer import attest, parting, roster
from overlay.peer.inbox import OWN_ROUNDS, Inbox
from overlay.peer.mailbox import Message
from overlay.peer.mesh import Mesh
from overlay.peer.rendezvous import meet
from overlay.peer.roster import names
from overlay.peer.settings import Settings
from overlay.wire import Payload, encode_payload


class Group:
    """The connected members of this run; use `with Group.join() as group`."""

    def __init__(self, members: roster.Roster, mesh: Mesh, timeout: float, parting: float) -> None:
        self._roster = members
        self._mesh = mesh
        self._inbox = Inbox(mesh.mailbox)
        self._timeout = timeout
        self._parting = parting
        self._left = False
        self.me = members.station
        self.stations = tuple(m.station for m in members.members)
        self.others = tuple(s for s in self.stations if s != self.me)
        self.index = members.index
        self.size = len(self.stations)
        self.task_id = members.task_id
        self.run_id = members.run_id
        self.collaboration_id = members.collaboration_id

    @classmethod
    def join(
        cls,
        rendezvous: float = 300.0,
        timeout: float = 60.0,
        progress: Callable[[str], object] | None = None,
        path: Path = roster.DEFAULT_PATH,
        settings: Settings | None = None,
    ) -> Group:
        """Connect to every member of this run.

        Args:
            rendezvous: seconds to wait for all members to appear.
            timeout: seconds that any later waiting may take, where the call gives none.
            progress: told in plain words who is being waited for.
            path: what the station's agent put into the container.
            settings: heartbeat and bounds; the defaults suit real stations.

        Raises:
            NotAdmitted: the station did not give this container the overlay.
            PeerMissing: naming the stations that did not appear, and how long they had.
            PeerLost, PeerAborted, ProtocolError: a peer that was here failed meanwhile.
        """
        settings = settings or Settings()
        members = roster.load(Path(path))
        mesh = Mesh(members, settings)
        group = cls(members, mesh, timeout, settings.parting)
        try:
            meet(mesh, group.others, rendezvous, progress or (lambda text: None))
        except BaseException as error:
            group.abort(error)
            raise
        return group

    # --- messages ---------------------------------------------------------------------------

    def send(self, station: str, payload: Payload, round: int = 0) -> None:
        """Send one message; returns at once, and the payload may be changed afterwards.

        Raises:
            UsageError: no such station, or a payload of another kind.
            PeerLate: the station takes nothing for longer than the group's timeout.
        """
        self._send([station], payload, round)

    def broadcast(self, payload: Payload, round: int = 0) -> None:
        """Send the same message to every other station."""
        self._send(self.others, payload, round)

    def receive(
        self, from_: str | None = None, round: int | None = None, timeout: float | None = None
    ) -> Message:
        """The next message, of one station or of any, of one round or of any.

        Raises:
            PeerLate: naming who has not delivered before the deadline.
            PeerLost, PeerAborted, ProtocolError: the run cannot go on.
        """
        self._check(from_, round or 0)
        waiting = {from_} if from_ is not None else set(self.others)
        rounds = range(OWN_ROUNDS) if round is None else range(round, round + 1)
        return self._inbox.next(waiting, rounds, self._deadline(timeout), every=False)

    def gather(self, round: int = 0, timeout: float | None = None) -> dict[str, Payload]:
        """One message from every other station, by station.

        Raises:
            PeerLate: naming all who have not delivered before the deadline.
        """
        return self._inbox.gather(self.others, round, self._deadline(timeout))

    def exchange(
        self, payloads: Mapping[str, Payload], round: int = 0, timeout: float | None = None
    ) -> dict[str, Payload]:
        """Give every other station its payload and get theirs; nothing is copied on the way.

        Args:
            payloads: one for every other station; one for this station comes back as it is.
            round: tells this exchange from others.
            timeout: seconds for the whole exchange.

        Returns:
            By station, what each sent to this one.

        Raises:
            PeerLate: naming all who have not delivered, or not taken, before the deadline.
        """
        if set(payloads) - {self.me} != set(self.others):
            raise UsageError("an exchange needs one payload for every other station")
        self._check(None, round)
        deadline = self._deadline(timeout)
        sent = {}
        for station in self.others:
            sent[station] = self._mesh.send(
                station, round, encode_payload(payloads[station]), deadline
            )
        received = self._inbox.gather(self.others, round, deadline)
        if self.me in payloads:
            received[self.me] = payloads[self.me]
        # The caller may change its arrays after this, so they must be out.
        self._inbox.taken(sent, deadline)
        return received

    def agree(self, digest: str, round: int = 0) -> None:
        """Return only if every station holds the same digest.

        Raises:
            TranscriptMismatch: naming who differs from the majority, or all when there is none.
        """
        self._check(None, round)
        own, deadline = round | OWN_ROUNDS, self._deadline(None)
        for station in self.others:
            self._mesh.send(station, own, encode_payload({"digest": digest}), deadline)
        held = {self.me: digest}
        for station, answer in self._inbox.gather(self.others, own, deadline).items():
            theirs = answer.get("digest") if isinstance(answer, dict) else None
            if not isinstance(theirs, str):
                raise ProtocolError(f"{station} sent no digest", station=station)
            held[station] = theirs
        if len(set(held.values())) > 1:
            raise _mismatch(held)

    def attest(self, statement: dict[str, Any]) -> dict[str, Any]:
        """Sign public facts with this run's key; see `overlay.peer.attest`."""
        return attest.attest(self._roster, statement)

    @property
    def strangers(self) -> int:
        """How many connections were refused because they were no peer's."""
        return self._mesh.strangers

    # --- leaving ----------------------------------------------------------------------------

    def abort(self, error: BaseException) -> None:
        """Tell every peer why this station stops, and leave. Only our own errors' words travel."""
        if not self._left:
            self._left = True
            self._mesh.leave(parting.encode(error, self.me), self._parting)

    def close(self) -> None:
        """Leave in order: everything sent is out and taken before the connections close.

        Raises:
            PeerLate: a station did not take what was sent to it.
        """
        if not self._left:
            self._left = True
            late = self._mesh.leave(None, self._timeout)
            if late:
                raise PeerLate(f"{names(late)} did not take all messages", station=names(late))

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self.abort(error)
        else:
            self.close()

    # --- inside -----------------------------------------------------------------------------

    def _send(self, stations: Iterable[str], payload: Payload, round: int) -> None:
        prefix, content = encode_payload(payload)
        if not isinstance(payload, bytes | dict):
            content = memoryview(bytes(content))
        deadline = self._deadline(None)
        for station in stations:
            self._check(station, round)
            self._mesh.send(station, round, (prefix, content), deadline)

    def _check(self, station: str | None, round: int) -> None:
        if station is not None and station not in self.others:
            raise UsageError(f"{station!r} is no other station of this run")
        if not 0 <= round < OWN_ROUNDS:
            raise UsageError(f"round {round} is outside 0 to {OWN_ROUNDS - 1}")

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)


def _mismatch(held: Mapping[str, str]) -> TranscriptMismatch:
    counts = Counter(held.values())
    digest, most = counts.most_common(1)[0]
    odd = [s for s, theirs in held.items() if theirs != digest] if 2 * most > len(held) else []
    who = f"{names(odd)} differs from the majority" if odd else f"{names(held)} differ"
    return TranscriptMismatch(
        f"the stations do not hold the same transcript: {who}; no result is released",
        why="somebody saw or said something else during the run",
        next_step="compare the stations' signed reports of this run",
        station=names(odd),
    )
