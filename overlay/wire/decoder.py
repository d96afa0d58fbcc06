"""Any bytes become messages or ProtocolError; memory is bounded by what a checked header announced.

Two ways in: `feed(bytes)`, or `buffer()` and `advance(n)`, which let a socket write straight into
the message's own memory so that a large array is never copied on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from overlay.errors import ProtocolError
from overlay.wire.frames import HEADER_BYTES, Header, Kind, decode_header


@dataclass(frozen=True)
class Incoming:
    """One whole message: the header of its last frame, and its body (writable, owned by it)."""

    header: Header
    body: memoryview


class Decoder:
    """Turns a stream of bytes into messages.

    Args:
        accept: called with each header before any of its body is taken or memory is set aside for
            it; raises ProtocolError to refuse (see `overlay.wire.session`).
    """

    def __init__(self, accept: Callable[[Header], None] | None = None) -> None:
        self._accept = accept
        self._head = memoryview(bytearray(HEADER_BYTES))
        self._have = 0
        self._header: Header | None = None
        self._body = memoryview(b"")
        self._filled = 0
        self._frame_end = 0
        self._partial: Header | None = None
        self._set_aside: tuple[memoryview, int] = (self._body, 0)
        self._failed = False

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._failed:
            raise ProtocolError("the stream has already failed")
        if self._header is None:
            return self._head[self._have :]
        return self._body[self._filled : self._frame_end]

    def advance(self, count: int) -> Incoming | None:
        """Take note that `count` bytes were written into `buffer()`.

        Returns:
            The message that these bytes completed, if they completed one.

        Raises:
            ProtocolError: the bytes are not allowed; nothing more can be read from this stream.
        """
        try:
            if self._header is not None:
                self._filled += count
            else:
                self._have += count
                if self._have < HEADER_BYTES:
                    return None
                self._have = 0
                self._begin(decode_header(self._head))
            return self._finish() if self._filled == self._frame_end else None
        except ProtocolError:
            self._failed = True
            raise

    def feed(self, data: bytes | bytearray | memoryview) -> list[Incoming]:
        """Decode `data`, which may begin and end anywhere in a frame.

        Raises:
            ProtocolError: the bytes are not allowed, now and for every later call.
        """
        messages = []
        view = memoryview(data).cast("B")
        while view:
            target = self.buffer()
            count = min(len(target), len(view))
            target[:count] = view[:count]
            view = view[count:]
            done = self.advance(count)
            if done is not None:
                messages.append(done)
        return messages

    def _begin(self, header: Header) -> None:
        if self._accept is not None:
            self._accept(header)
        if header.kind is not Kind.DATA:
            # A control frame may stand between two chunks; the chunks' place is kept meanwhile.
            self._set_aside = (self._body, self._filled)
            self._body, self._filled = _memory(header.total), 0
        elif self._partial is None:
            if header.offset:
                raise ProtocolError("a message does not begin at its beginning")
            self._body, self._filled = _memory(header.total), 0
        else:
            expected = (self._partial.round, self._partial.total, self._filled)
            if (header.round, header.total, header.offset) != expected:
                raise ProtocolError("a chunk does not continue the message before it")
        self._header = header
        self._frame_end = self._filled + header.length

    def _finish(self) -> Incoming | None:
        header = self._header
        if header is None:
            return None
        self._header = None
        body = self._body
        if header.kind is not Kind.DATA:
            self._body, self._filled = self._set_aside
        elif self._filled < header.total:
            self._partial = header
            return None
        else:
            self._partial = None
            self._body, self._filled = memoryview(b""), 0
        return Incoming(header, body)


def _memory(size: int) -> memoryview:
    # numpy does not zero what it allocates: an announced gigabyte costs nothing until it arrives.
    return np.empty(size, dtype=np.uint8).data
