"""Nobody is a peer before both greetings agree on the roster; until then a connection may just go.

Each pair has one connection: the higher index dials the lower.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable
from functools import partial

from overlay.errors import NotAdmitted, PeerUnknown, ProtocolError
from overlay.peer import tls
from overlay.peer.connection import Connection, Phase
from overlay.peer.dialer import Address, Dialer, open_socket
from overlay.peer.loop import Loop
from overlay.peer.roster import Member, Roster
from overlay.peer.settings import Settings
from overlay.wire import Kind, canonical_json, parse_json

log = logging.getLogger("overlay.peer")

_LOUD_STRANGERS = 20
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Door:
    """Connections on their way in or out, until they are a peer's. Lives on the mesh's thread.

    Args:
        serve: does what can be done on a connection, given the events that came.
        drop: ends a connection, saying why.

    Raises:
        NotAdmitted: the identity cannot be used or the port cannot be listened on.
    """

    def __init__(
        self,
        roster: Roster,
        settings: Settings,
        loop: Loop,
        serve: Callable[[Connection, int], None],
        drop: Callable[[Connection, str], None],
    ) -> None:
        self._roster = roster
        self._settings = settings
        self._loop = loop
        self._serve = serve
        self._drop = drop
        self._client, self._server = tls.contexts(roster)
        self._hello = canonical_json({"roster": roster.digest()})
        self._pending: list[Connection] = []
        self._dialer = Dialer(roster.members[: roster.index], loop.post, self._connect)
        self.awaited = {m.station for m in roster.members} - {roster.station}
        self.strangers = 0
        self.is_open = True
        self._listener = _listen(roster.me)
        loop.watch(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def busy(self) -> bool:
        """Whether anything is under way that needs a look soon."""
        return self._dialer.active or bool(self._pending)

    def last_error(self, station: str) -> str:
        """Why the latest attempt to reach a peer failed."""
        return self._dialer.last_error.get(station, "")

    def tick(self, now: float) -> None:
        """Dial whose time has come, and send away who takes too long."""
        if self.is_open:
            self._dialer.tick(now)
        for connection in list(self._pending):
            if now - connection.since > self._settings.handshake:
                self._drop(connection, f"it was {connection.phase.value} for too long")

    def close(self) -> None:
        """Let nobody in any more, and send away who is not a peer yet."""
        if self.is_open:
            self.is_open = False
            self._loop.forget(self._listener)
            self._listener.close()
            for connection in list(self._pending):
                self._drop(connection, "this run is leaving")

    # --- from a socket to a peer ------------------------------------------------------------

    def advance(self, connection: Connection) -> bool:
        """Go on until the other end is identified; whether it is.

        Raises:
            OSError: the connection or its handshake failed.
            PeerUnknown: it is no awaited member of the roster.
        """
        if connection.phase is Phase.CONNECTING:
            code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "the connection was refused or timed out")
            self._loop.forget(connection.sock)
            connection.secure(self._client if connection.dialled else self._server)
        if not connection.handshake():
            return False
        peer, mine = tls.identify(connection.sock, self._roster), self._roster.me
        expected = connection.dialled or peer
        if peer != expected or (connection.dialled is None and peer.station < mine.station):
            raise PeerUnknown(f"{peer.station} was not expected on this connection")
        self._check_awaited(peer)
        connection.begin(peer, self._roster.task_id, mine.run_id)
        if connection.dialled:
            connection.urgent(Kind.HELLO, self._hello)
        return True

    def greeted(self, connection: Connection, peer: Member, greeting: memoryview) -> None:
        """Take a peer's greeting, after which the connection is open and the mesh's.

        Raises:
            ProtocolError: the greeting is of another form, or of another roster.
            PeerUnknown: the peer is connected already.
        """
        if parse_json(greeting) != parse_json(self._hello):
            raise ProtocolError("it holds another roster of this task")
        self._check_awaited(peer)
        if connection.dialled is None:
            connection.urgent(Kind.HELLO, self._hello)
        connection.phase = Phase.OPEN
        self._pending.remove(connection)
        self._dialer.reached(peer)
        self.awaited.discard(peer.station)

    def gone(self, connection: Connection, why: str) -> None:
        """Note that a connection was dropped before it was a peer's."""
        self._pending.remove(connection)
        member = connection.dialled or connection.peer
        if member is not None:
            self._dialer.failed(member, why, time.monotonic())
        elif self.is_open:
            self.strangers += 1
            if self.strangers <= _LOUD_STRANGERS:
                log.warning("PeerUnknown: refused a connection that is no peer's: %s", why)

    def _check_awaited(self, peer: Member) -> None:
        if peer.station not in self.awaited:
            raise PeerUnknown(f"{peer.station} is connected already")

    # --- sockets ----------------------------------------------------------------------------

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
        self._serve(connection, _BOTH)

    def _connect(self, member: Member, address: Address) -> None:
        if not self.is_open:  # a name server's late answer
            return
        now = time.monotonic()
        try:
            sock = open_socket(address)
        except OSError as error:
            self._dialer.failed(member, str(error), now)
            return
        connection = Connection(sock, now, dialled=member)
        self._pending.append(connection)
        self._loop.watch(sock, connection.events(), partial(self._serve, connection))


def _listen(me: Member) -> socket.socket:
    try:
        listener = socket.create_server((me.address, me.port), backlog=128)
    except OSError as error:
        raise NotAdmitted(
            f"port {me.port} of this container cannot be listened on", why=str(error)
        ) from None
    listener.setblocking(False)
    return listener
