"""A frame is a bounded, consistent 64-byte header and at most 1 MiB of body, or it is refused.

Layout, little endian: magic 4s, version u8, kind u8, reserved u16 (zero), task u64, sender run u64,
receiver run u64, round u32, sequence u64, total u64, offset u64, length u32. A message longer than
one frame travels as consecutive DATA frames that all announce the same `total`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from overlay.errors import ProtocolError

MAGIC = b"v6ov"
VERSION = 1
MAX_FRAME = 1 << 20
MAX_CONTROL = 1 << 16
MAX_MESSAGE = 2 << 30

_LAYOUT = struct.Struct("<4sBBHQQQIQQQI")
HEADER_BYTES = _LAYOUT.size


class Kind(IntEnum):
    """What a frame is for."""

    HELLO = 1
    DATA = 2
    HEARTBEAT = 3
    ABORT = 4
    BYE = 5


# Frames that carry nothing are one form only, so that no peer can hide bytes in them.
_EMPTY = frozenset({Kind.HEARTBEAT, Kind.BYE})


class Header(NamedTuple):
    """Everything that binds a frame to its place in the run.

    `task`, `sender` and `receiver` are vantage6 ids (sender and receiver are run ids), `sequence`
    counts frames of one direction of one connection from 0, `total` and `offset` are bytes of the
    message, `length` bytes of this frame's body.
    """

    kind: Kind
    task: int
    sender: int
    receiver: int
    round: int
    sequence: int
    total: int
    offset: int
    length: int


def encode_header(header: Header) -> bytes:
    """The 64 bytes of a header.

    Raises:
        ProtocolError: a field is out of its range or contradicts another.
    """
    try:
        raw = _LAYOUT.pack(MAGIC, VERSION, header.kind, 0, *header[1:])
    except struct.error as error:
        raise ProtocolError("a header field is out of range", why=str(error)) from None
    _check(header)
    return raw


def decode_header(raw: bytes | bytearray | memoryview) -> Header:
    """The header in exactly 64 bytes.

    Raises:
        ProtocolError: other magic, version or kind, or lengths that contradict or exceed bounds.
    """
    if len(raw) != HEADER_BYTES:
        raise ProtocolError("a header has the wrong length", why=f"{len(raw)} bytes")
    magic, version, kind, reserved, *fields = _LAYOUT.unpack(raw)
    if magic != MAGIC or version != VERSION or reserved != 0:
        raise ProtocolError("bytes are not a frame of this protocol version")
    try:
        header = Header(Kind(kind), *fields)
    except ValueError:
        raise ProtocolError("a frame is of unknown kind", why=f"kind {kind}") from None
    _check(header)
    return header


def encode_message(
    kind: Kind,
    body: bytes,
    *,
    task: int,
    sender: int,
    receiver: int,
    round: int = 0,
    sequence: int = 0,
) -> Iterator[bytes]:
    """The frames of one message, header and body together; the first has number `sequence`.

    The reference form for tests and tools; the mesh builds the same frames without copies.
    """
    total = len(body)
    offset = 0
    while True:
        part = body[offset : offset + MAX_FRAME]
        header = Header(kind, task, sender, receiver, round, sequence, total, offset, len(part))
        yield encode_header(header) + part
        offset += len(part)
        sequence += 1
        if offset >= total:
            return


def _check(header: Header) -> None:
    if header.kind is Kind.DATA:
        if header.length > MAX_FRAME or header.total > MAX_MESSAGE:
            raise ProtocolError(
                "a message exceeds the bound", why=f"{header.length} of {header.total} bytes"
            )
        # An empty frame is legal only as the whole of an empty message: progress is guaranteed.
        if header.offset + header.length > header.total or (header.total and not header.length):
            raise ProtocolError("a frame lies outside its message")
        return
    if header.offset or header.length != header.total or header.length > MAX_CONTROL:
        raise ProtocolError("a control frame is too long or split", why=header.kind.name)
    if header.kind in _EMPTY and header.length:
        raise ProtocolError("a frame that must be empty is not", why=header.kind.name)
