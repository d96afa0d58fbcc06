"""One TLS connection, driven by one thread and never blocking: reads go on while writes wait."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from overlay.peer.roster import Member
from overlay.wire import MAX_FRAME, Decoder, Half, Incoming, Kind, Link, State

# One turn of one connection; keeps 49 peers served evenly.
_TURN = 1 << 20
# A piece handed to OpenSSL at once; below this size header and body share one TLS record.
_PIECE = 1 << 18
_SMALL = 1 << 14


class Phase(Enum):
    """How far a connection has come."""

    CONNECTING = "connecting"
    HANDSHAKE = "in its TLS handshake"
    HELLO = "waiting for the peer's greeting"
    OPEN = "open"
    CLOSED = "closed"


class StreamEndError(Exception):
    """The other end has closed the connection, or the network has."""


@dataclass
class Outgoing:
    """One message on its way out; `parts` are sent in order and must not change until `done`."""

    kind: Kind
    round: int = 0
    parts: deque[memoryview] = field(default_factory=deque)
    offset: int = 0
    done: bool = False

    def __post_init__(self) -> None:
        self.total = sum(len(part) for part in self.parts)


class Connection:
    """A socket to one peer and everything that is on its way to it.

    The mesh's thread calls everything; other threads only append to `outbox`.
    """

    def __init__(self, sock: socket.socket, now: float, dialled: Member | None = None) -> None:
        self.sock = sock
        self.dialled = dialled
        self.peer: Member | None = None
        self.phase = Phase.CONNECTING
        self.since = now
        self.heard = now
        self.spoke = now
        self.paused = False
        self.more = False
        self.outbox: deque[Outgoing] = deque()
        self.queued = 0
        self.finishing = False
        self.incoming: Half | None = None
        self.outgoing: Half | None = None
        self.tls_wants_write = False
        self._urgent: deque[Outgoing] = deque()
        self._decoder: Decoder | None = None
        self._pieces: deque[memoryview] = deque()
        self._sending: Outgoing | None = None
        self._parting = False

    # --- setting up -------------------------------------------------------------------------

    def secure(self, context: ssl.SSLContext) -> None:
        """Put TLS on the connected socket. Raises OSError."""
        name = self.dialled.hostname if self.dialled else None
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = context.wrap_socket(
            self.sock,
            server_side=self.dialled is None,
            server_hostname=name,
            do_handshake_on_connect=False,
        )
        self.phase = Phase.HANDSHAKE

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is complete. Raises OSError."""
        self.tls_wants_write = False
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self.tls_wants_write = True
            return False
        return True

    def begin(self, peer: Member, task: int, me: int) -> None:
        """Bind both directions to the identified peer; only its greeting is accepted now."""
        self.peer = peer
        self.incoming = Half(Link(task, peer.run_id, me))
        self.outgoing = Half(Link(task, me, peer.run_id))
        self._decoder = Decoder(self.incoming.accept)
        self.phase = Phase.HELLO

    @property
    def _tls(self) -> ssl.SSLSocket:
        if not isinstance(self.sock, ssl.SSLSocket):
            raise OSError("the connection is not secured yet")
        return self.sock

    # --- reading ----------------------------------------------------------------------------

    def read(self, now: float) -> list[Incoming]:
        """Whole messages that have arrived, at most about one turn's bytes.

        Raises:
            StreamEndError: the stream has ended.
            ProtocolError: the peer sent what it may not send.
        """
        messages: list[Incoming] = []
        decoder, budget = self._decoder, _TURN
        if decoder is None:
            return messages
        self.tls_wants_write = self.more = False
        tls = self._tls
        while budget > 0:
            try:
                count = tls.recv_into(decoder.buffer())
            except ssl.SSLWantReadError:
                return messages
            except ssl.SSLWantWriteError:
                self.tls_wants_write = True
                return messages
            except OSError as error:
                return self._ended(messages, str(error))
            if not count:
                return self._ended(messages, "the connection was closed")
            budget -= count
            self.heard = now
            done = decoder.advance(count)
            if done is not None:
                messages.append(done)
        # What OpenSSL already holds decrypted would not wake the selector.
        self.more = tls.pending() > 0
        return messages

    def _ended(self, messages: list[Incoming], why: str) -> list[Incoming]:
        # Messages that came before the end are given out first; the next read meets the end again.
        if not messages:
            raise StreamEndError(why)
        self.more = True
        return messages

    # --- writing ----------------------------------------------------------------------------

    def urgent(self, kind: Kind, body: bytes = b"") -> None:
        """Queue a control frame before all data."""
        parts = deque([memoryview(body)]) if body else deque()
        self._urgent.append(Outgoing(kind, parts=parts))

    def farewell(self, kind: Kind, body: bytes = b"") -> None:
        """Say the last word (BYE or ABORT) to a peer now, once: data still queued is dropped."""
        self.outbox.clear()
        self._sending = None  # a frame that is half out is finished all the same
        ended = self.outgoing is None or self.outgoing.state is State.ENDED
        if not ended and not self._parting:
            self._parting = True
            self.urgent(kind, body)

    def beat(self) -> None:
        """Show that this end lives, unless that shows anyway."""
        if self.outgoing is not None and self.outgoing.state is State.OPEN and not self.busy:
            self.urgent(Kind.HEARTBEAT)

    @property
    def busy(self) -> bool:
        """Whether bytes are waiting to be written."""
        return bool(self._pieces or self._urgent or self._sending or self.outbox)

    def write(self, now: float) -> list[Outgoing]:
        """Write what the socket takes, at most about one turn's bytes.

        Returns:
            The messages that are now out completely.

        Raises:
            StreamEndError: the stream has ended.
        """
        completed: list[Outgoing] = []
        if self.outgoing is None:
            return completed
        budget, tls = _TURN, self._tls
        while budget > 0:
            if not self._pieces and not self._next_frame():
                break
            piece = self._pieces[0]
            try:
                # After "want", OpenSSL must be given the same bytes again: nothing changes here.
                count = tls.send(piece[:_PIECE])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                break
            except OSError as error:
                raise StreamEndError(str(error)) from None
            budget -= count
            self.spoke = now
            if count < len(piece):
                self._pieces[0] = piece[count:]
                continue
            self._pieces.popleft()
            message = self._sending
            if not self._pieces and message is not None and message.offset >= message.total:
                completed.append(message)
                self._sending = None
        return completed

    def _next_frame(self) -> bool:
        """Lay the next frame's bytes ready; control frames may stand between two chunks."""
        half = self.outgoing
        if half is None:
            return False
        if self._urgent:
            control = self._urgent.popleft()
            head = half.stamp(control.kind, total=control.total, length=control.total)
            self._pieces.append(memoryview(b"".join([head, *control.parts])))
            return True
        if self._sending is None:
            if not self.outbox:
                return False
            self._sending = self.outbox.popleft()
        message = self._sending
        length = min(MAX_FRAME, message.total - message.offset)
        head = half.stamp(
            message.kind,
            round=message.round,
            total=message.total,
            offset=message.offset,
            length=length,
        )
        message.offset += length
        body = _cut(message.parts, length)
        if length <= _SMALL:
            self._pieces.append(memoryview(b"".join([head, *body])))
        else:
            self._pieces.append(memoryview(head))
            self._pieces.extend(body)
        return True

    # --- the selector's side ----------------------------------------------------------------

    def events(self) -> int:
        """What the selector must watch for."""
        if self.phase is Phase.CONNECTING:
            return selectors.EVENT_WRITE
        wanted = 0 if self.paused else selectors.EVENT_READ
        if self.tls_wants_write or (self.outgoing is not None and self.busy):
            wanted |= selectors.EVENT_WRITE
        return wanted

    def pause(self, paused: bool, silent: float) -> None:
        """Stop or resume reading.

        While it is not read, a dead host shows only by unacknowledged bytes. The time limit is not
        set otherwise: Linux would also drop a live peer whose window is closed for that long.
        """
        self.paused = paused
        limit = round(silent * 1000) if paused else 0
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit)

    def close(self) -> None:
        """Close the socket at once."""
        self.phase = Phase.CLOSED
        with contextlib.suppress(OSError):
            self.sock.close()


def _cut(parts: deque[memoryview], length: int) -> list[memoryview]:
    """Take the first `length` bytes off `parts` without copying."""
    taken = []
    while length > 0:
        part = parts.popleft()
        if len(part) > length:
            parts.appendleft(part[length:])
            part = part[:length]
        taken.append(part)
        length -= len(part)
    return taken
