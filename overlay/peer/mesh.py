"""One thread owns every connection of this run; nothing it does can block, so nobody waits on it.

The algorithm's thread posts messages and reads the mailbox. Who aborts also tells the members that
it has never met, as far as they arrive before it has to go.
"""

from __future__ import annotations

import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from overlay.errors import PeerError, PeerLate, PeerLost, PeerUnknown
from overlay.errors import ProtocolError as Refused
from overlay.peer import parting
from overlay.peer.connection import Connection, Outgoing, Phase, StreamEndError
from overlay.peer.door import Door
from overlay.peer.loop import Loop
from overlay.peer.mailbox import Mailbox, Message
from overlay.peer.roster import Roster
from overlay.peer.settings import Settings
from overlay.wire import Incoming, Kind, State, decode_payload, parse_json

log = logging.getLogger("overlay.peer")

_TICK = 0.05
_IDLE_TICK = 0.25
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Mesh:
    """The connections of one run.

    Raises:
        NotAdmitted: the identity cannot be used or the port cannot be listened on.
    """

    def __init__(self, roster: Roster, settings: Settings) -> None:
        self._roster = roster
        self._settings = settings
        self._open: dict[str, Connection] = {}
        self._leave_by: float | None = None
        self._abort: bytes | None = None
        self._loop = Loop()
        self._door = Door(roster, settings, self._loop, self._serve, self._drop)
        post_unpause = partial(self._loop.post, self._unpause_all)
        self.mailbox = Mailbox(settings.max_unread, post_unpause)
        self._thread = threading.Thread(target=self._run, name="v6-overlay-mesh", daemon=True)
        self._thread.start()

    @property
    def strangers(self) -> int:
        """How many connections were refused because they were no peer's."""
        return self._door.strangers

    # --- for the algorithm's thread ---------------------------------------------------------

    def send(
        self, station: str, round: int, parts: Iterable[bytes | memoryview], deadline: float
    ) -> Outgoing:
        """Queue a message; waits only while too much is queued for that peer already.

        A peer that has finished takes no more messages: what is sent to it is dropped.

        Raises:
            PeerLate: the peer took too little until the deadline.
            OverlayError: the run has failed.
        """
        message = Outgoing(Kind.DATA, round, deque(memoryview(p) for p in parts if len(p)))
        box = self.mailbox
        connection = self._open.get(station)

        def room() -> bool | None:
            if connection is None or station in box.departed:
                return True
            return True if connection.queued <= self._settings.max_queued else None

        if box.failure is not None:
            raise box.failure
        if box.wait(room, deadline) is None:
            raise PeerLate(f"{station} does not take what is sent to it", station=station)
        with box.changed:
            if connection is None or station in box.departed:
                message.done = True
                return message
            connection.queued += message.total
            connection.outbox.append(message)
        self._loop.post(partial(self._serve, connection, selectors.EVENT_WRITE))
        return message

    def last_error(self, station: str) -> str:
        """Why the latest attempt to reach a peer failed."""
        return self._door.last_error(station)

    def leave(self, abort: bytes | None, seconds: float) -> list[str]:
        """Say BYE, or ABORT with its reason, wait for the peers to take it, and stop.

        With a reason, members that were never here are waited for as well: who arrives within
        `seconds` need not wait for its own deadline.

        Returns:
            The stations that did not take everything within `seconds`.
        """
        by = time.monotonic() + seconds
        self._loop.post(partial(self._part, abort, by))
        self._thread.join(seconds + 1.0)
        return sorted(self._open)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._turns()
        except Exception as error:
            # A fault in here must reach the algorithm's thread instead of leaving it waiting.
            log.exception("the mesh has stopped")
            self.mailbox.fail(PeerError("the mesh has stopped", why=type(error).__name__))
        finally:
            self._door.close()
            for connection in self._open.values():
                connection.close()
            self._loop.close()

    def _turns(self) -> None:
        settings, next_tick = self._settings, 0.0
        before = time.monotonic()
        while self._leave_by is None or (
            (self._open or self._door.is_open) and before < self._leave_by
        ):
            more = [c for c in self._open.values() if c.more and not c.paused]
            pause = 0.0 if more else max(0.0, next_tick - time.monotonic())
            actions = self._loop.wait(pause)
            now = time.monotonic()
            if now - before > pause + settings.heartbeat:
                # This process stood still: what the peers said meanwhile is still to be read.
                for connection in self._open.values():
                    connection.heard += now - before - pause
            before = now
            for connection in more:
                self._serve(connection)
            for action in actions:
                action()
            if now >= next_tick:
                self._tick(now)
                busy = self._door.busy or self._leave_by
                next_tick = now + (_TICK if busy else min(_IDLE_TICK, settings.heartbeat / 4))

    def _tick(self, now: float) -> None:
        settings = self._settings
        self._door.tick(now)
        for connection in list(self._open.values()):
            self._unpause(connection, now)
            if now - connection.spoke >= settings.heartbeat:
                connection.beat()
            if now - connection.heard > settings.silent:
                self._drop(connection, f"it was silent for {now - connection.heard:.1f} s")
            elif connection.busy:
                self._serve(connection)

    # --- what connections bring ------------------------------------------------------------

    def _serve(self, connection: Connection, events: int = _BOTH) -> None:
        """Do what can be done on a connection without waiting."""
        if connection.phase is not Phase.CLOSED:
            self._guarded(connection, partial(self._advance, connection, events))
            self._watch(connection)

    def _guarded(self, connection: Connection, action: Callable[[], None]) -> None:
        """Run `action`; whatever goes wrong ends this one connection and no other."""
        try:
            action()
        except (StreamEndError, OSError, PeerUnknown) as error:
            self._drop(connection, str(error))
        except Refused as error:
            peer = connection.peer
            if peer is not None:
                station = peer.station
                what = f"{station} broke the protocol: {error.what}"
                self.mailbox.fail(Refused(what, why=error.why, station=station))
            self._drop(connection, str(error))

    def _advance(self, connection: Connection, events: int) -> None:
        if connection.phase in (Phase.CONNECTING, Phase.HANDSHAKE):
            if not self._door.advance(connection):
                return
            events = _BOTH
        now = time.monotonic()
        readable = events & selectors.EVENT_READ or connection.tls_wants_write
        if readable and not connection.paused:
            for message in connection.read(now):
                self._on_message(connection, message)
        completed = connection.write(now)
        if completed:
            with self.mailbox.changed:
                for outgoing in completed:
                    outgoing.done = True
                    connection.queued -= outgoing.total
                self.mailbox.changed.notify_all()
        if connection.finishing and not connection.busy:
            self._drop(connection, "it has finished")

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        peer, kind = connection.peer, message.header.kind
        if peer is None:
            return
        station = peer.station
        if kind is Kind.HELLO:
            self._door.greeted(connection, peer, message.body)
            self._open[station] = connection
            self.mailbox.arrive(station)
            if self._leave_by is not None:
                self._take_leave(connection)
        elif kind is Kind.DATA and self._leave_by is None:
            size = message.header.total
            payload = decode_payload(message.body)
            self.mailbox.put(Message(station, message.header.round, payload), size)
            if self.mailbox.is_full(station):
                connection.pause(True, self._settings.silent)
        elif kind in (Kind.ABORT, Kind.BYE):
            if kind is Kind.ABORT:
                self.mailbox.fail(parting.decode(parse_json(message.body), station, self._roster))
            self.mailbox.depart(station)
            connection.farewell(Kind.BYE)
            connection.finishing = True

    def _unpause_all(self) -> None:
        for connection in list(self._open.values()):
            self._unpause(connection, time.monotonic())

    def _unpause(self, connection: Connection, now: float) -> None:
        station = connection.peer.station if connection.peer else ""
        if connection.paused:
            connection.heard = now
            if self._leave_by is not None or not self.mailbox.is_full(station):
                connection.pause(False, self._settings.silent)
                connection.more = True

    # --- connections go ---------------------------------------------------------------------

    def _part(self, abort: bytes | None, by: float) -> None:
        if self._leave_by is not None:
            return
        self._leave_by, self._abort = by, abort
        if abort is None or not self._door.awaited:
            self._door.close()
        for connection in list(self._open.values()):
            self._take_leave(connection)
            self._serve(connection)

    def _take_leave(self, connection: Connection) -> None:
        """Say BYE after all that is queued, or the reason before it; the peer answers with BYE."""
        if self._abort is not None:
            connection.farewell(Kind.ABORT, self._abort)
        else:
            connection.outbox.append(Outgoing(Kind.BYE))
        self._unpause(connection, time.monotonic())
        if not self._door.awaited:
            self._door.close()

    def _drop(self, connection: Connection, why: str) -> None:
        if connection.phase is Phase.CLOSED:
            return
        was_open = connection.phase is Phase.OPEN
        self._loop.forget(connection.sock)
        connection.close()
        if not was_open or connection.peer is None:
            self._door.gone(connection, why)
            return
        station = connection.peer.station
        ended = connection.incoming is not None and connection.incoming.state is State.ENDED
        if not ended and self._leave_by is None:
            self.mailbox.fail(PeerLost(f"{station} has gone", why=why, station=station))
        # Only now: who finds no connection finds the reason recorded.
        self._open.pop(station, None)

    def _watch(self, connection: Connection) -> None:
        if connection.phase is not Phase.CLOSED:
            ready = partial(self._serve, connection)
            self._loop.watch(connection.sock, connection.events(), ready)
