"""One thread owns every connection of this run; nothing it does can block, so nobody waits on it.

The algorithm's thread posts messages and reads the mailbox. Each pair has one connection: the
higher index dials the lower. A peer counts as present once both greetings agree on the roster.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from overlay.errors import NotAdmitted, PeerError, PeerLate, PeerLost, PeerUnknown
from overlay.errors import ProtocolError as Refused
from overlay.peer import parting, tls
from overlay.peer.connection import Connection, Outgoing, Phase, StreamEndError
from overlay.peer.dialer import Address, Dialer, open_socket
from overlay.peer.mailbox import Mailbox, Message
from overlay.peer.roster import Member, Roster
from overlay.peer.settings import Settings
from overlay.wire import Incoming, Kind, State, canonical_json, decode_payload, parse_json

log = logging.getLogger("overlay.peer")

_TICK = 0.05
_IDLE_TICK = 0.25
_LOUD_STRANGERS = 20
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Mesh:
    """The connections of one run.

    Raises:
        NotAdmitted: the identity cannot be used or the port cannot be listened on.
    """

    def __init__(self, roster: Roster, settings: Settings) -> None:
        self._roster = roster
        self._settings = settings
        self._client, self._server = tls.contexts(roster)
        self._hello = canonical_json({"roster": roster.digest()})
        self.mailbox = Mailbox(settings.max_unread, self._wake)
        self.strangers = 0
        self._commands: deque[Callable[[], None]] = deque()
        self._open: dict[str, Connection] = {}
        self._pending: list[Connection] = []
        self._leave_by: float | None = None
        lower = roster.members[: roster.index]
        self._dialer = Dialer(lower, self._post, self._connect)
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._listener = _listen(roster.me)
        for sock in (self._bell, self._ear):
            sock.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, self._hear)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._run, name="v6-overlay-mesh", daemon=True)
        self._thread.start()

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
        self._post(partial(self._serve, connection, selectors.EVENT_WRITE))
        return message

    def last_error(self, station: str) -> str:
        """Why the latest attempt to reach a peer failed."""
        return self._dialer.last_error.get(station, "")

    def leave(self, abort: bytes | None, seconds: float) -> list[str]:
        """Say BYE, or ABORT with its reason, wait for the peers to take it, and stop.

        Returns:
            The stations that did not take everything within `seconds`.
        """
        by = time.monotonic() + seconds
        self._post(partial(self._part, abort, by))
        self._thread.join(seconds + 1.0)
        return sorted(self._open)

    # --- the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop()
        except Exception as error:
            # A fault in here must reach the algorithm's thread instead of leaving it waiting.
            log.exception("the mesh has stopped")
            self.mailbox.fail(PeerError("the mesh has stopped", why=type(error).__name__))
        finally:
            for connection in [*self._open.values(), *self._pending]:
                connection.close()
            for sock in (self._listener, self._bell, self._ear):
                sock.close()
            self._selector.close()

    def _loop(self) -> None:
        settings, next_tick = self._settings, 0.0
        before = time.monotonic()
        while self._leave_by is None or ((self._open or self._pending) and before < self._leave_by):
            more = [c for c in self._open.values() if c.more and not c.paused]
            pause = 0.0 if more else max(0.0, next_tick - time.monotonic())
            ready = self._selector.select(pause)
            now = time.monotonic()
            if now - before > pause + settings.heartbeat:
                # This process stood still: what the peers said meanwhile is still to be read.
                for connection in self._open.values():
                    connection.heard += now - before - pause
            before = now
            for connection in more:
                self._serve(connection)
            for key, events in ready:
                key.data(events)
            while self._commands:
                self._commands.popleft()()
            if now >= next_tick:
                self._tick(now)
                busy = self._dialer.active or self._pending or self._leave_by
                next_tick = now + (_TICK if busy else min(_IDLE_TICK, settings.heartbeat / 4))

    def _tick(self, now: float) -> None:
        settings = self._settings
        if self._leave_by is None:
            self._dialer.tick(now)
        for connection in list(self._pending):
            if now - connection.since > settings.handshake:
                self._drop(connection, f"it was {connection.phase.value} for too long")
        for connection in list(self._open.values()):
            self._unpause(connection, now)
            if now - connection.spoke >= settings.heartbeat:
                connection.beat()
            if now - connection.heard > settings.silent:
                self._drop(connection, f"it was silent for {now - connection.heard:.1f} s")
            elif connection.busy:
                self._serve(connection)

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._wake()

    def _wake(self) -> None:
        # A full pipe will wake the thread as well; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def _hear(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4096)
        for connection in list(self._open.values()):
            self._unpause(connection, time.monotonic())

    # --- connections come -------------------------------------------------------------------

    def _accept(self, events: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        accepted = [c for c in self._pending if c.dialled is None]
        if len(accepted) >= max(32, 2 * len(self._roster.members)):
            self._drop(accepted[0], "too many connections were waiting")
        connection = Connection(sock, time.monotonic())
        self._pending.append(connection)
        self._guarded(connection, partial(connection.secure, self._server))
        self._serve(connection)

    def _connect(self, member: Member, address: Address) -> None:
        now = time.monotonic()
        try:
            sock = open_socket(address)
        except OSError as error:
            self._dialer.failed(member, str(error), now)
            return
        connection = Connection(sock, now, dialled=member)
        self._pending.append(connection)
        self._watch(connection)

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
        if connection.phase is Phase.CONNECTING:
            code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "the connection was refused or timed out")
            self._selector.unregister(connection.sock)
            connection.secure(self._client)
        if connection.phase is Phase.HANDSHAKE:
            if not connection.handshake():
                return
            self._identified(connection)
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

    def _identified(self, connection: Connection) -> None:
        peer = tls.identify(connection.sock, self._roster)
        mine = self._roster.me
        expected = connection.dialled or peer
        if peer != expected or (connection.dialled is None and peer.station < mine.station):
            raise PeerUnknown(f"{peer.station} was not expected on this connection")
        if peer.station in self._open or peer.station in self.mailbox.present:
            raise PeerUnknown(f"{peer.station} is connected already")
        connection.begin(peer, self._roster.task_id, mine.run_id)
        if connection.dialled:
            connection.urgent(Kind.HELLO, self._hello)

    def _on_message(self, connection: Connection, message: Incoming) -> None:
        peer, kind = connection.peer, message.header.kind
        if peer is None:
            return
        station = peer.station
        if kind is Kind.HELLO:
            if parse_json(message.body) != parse_json(self._hello):
                raise Refused("it holds another roster of this task")
            if station in self._open:
                raise PeerUnknown(f"{station} is connected already")
            if connection.dialled is None:
                connection.urgent(Kind.HELLO, self._hello)
            connection.phase = Phase.OPEN
            self._pending.remove(connection)
            self._open[station] = connection
            self._dialer.reached(peer)
            self.mailbox.arrive(station)
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
        self._leave_by = by
        self._selector.unregister(self._listener)
        self._listener.close()
        for connection in list(self._pending):
            # The peer may count a connection as open as soon as it has been greeted.
            half = connection.outgoing
            if half is None or half.state is State.NEW:
                self._drop(connection, "this run is leaving")
        connections = [*self._pending, *self._open.values()]
        for connection in connections:
            if abort is not None:
                connection.farewell(Kind.ABORT, abort)
            else:
                connection.outbox.append(Outgoing(Kind.BYE))
            self._unpause(connection, time.monotonic())
        for connection in connections:
            self._serve(connection)

    def _drop(self, connection: Connection, why: str) -> None:
        if connection.phase is Phase.CLOSED:
            return
        was_open = connection.phase is Phase.OPEN
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection.sock)
        connection.close()
        if was_open and connection.peer is not None:
            station = connection.peer.station
            ended = connection.incoming is not None and connection.incoming.state is State.ENDED
            if not ended and self._leave_by is None:
                self.mailbox.fail(PeerLost(f"{station} has gone", why=why, station=station))
            # Only now: who finds no connection finds the reason recorded.
            self._open.pop(station, None)
            return
        self._pending.remove(connection)
        member = connection.dialled or connection.peer
        if member is not None:
            self._dialer.failed(member, why, time.monotonic())
        elif self._leave_by is None:
            self.strangers += 1
            if self.strangers <= _LOUD_STRANGERS:
                log.warning("PeerUnknown: refused a connection that is no peer's: %s", why)

    def _watch(self, connection: Connection) -> None:
        events = 0 if connection.phase is Phase.CLOSED else connection.events()
        if connection.phase is Phase.CLOSED:
            return
        try:
            current = self._selector.get_key(connection.sock).events
        except KeyError:
            if events:
                self._selector.register(connection.sock, events, partial(self._serve, connection))
            return
        if not events:
            self._selector.unregister(connection.sock)
        elif events != current:
            self._selector.modify(connection.sock, events, partial(self._serve, connection))


def _listen(me: Member) -> socket.socket:
    try:
        listener = socket.create_server((me.address, me.port), backlog=128)
    except OSError as error:
        raise NotAdmitted(
            f"port {me.port} of this container cannot be listened on", why=str(error)
        ) from None
    listener.setblocking(False)
    return listener
