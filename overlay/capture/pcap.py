"""A capture is read as a stream in bounded memory; a damaged one is an error, not less data."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from overlay.errors import CaptureFailed

ETHERNET = 1
RAW_IP = 101

# Magic numbers of the classic format: byte order and the unit of the fraction of a second.
_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_MOST_BYTES = 262_144  # tcpdump's own upper limit for one packet
_CHUNK = 1 << 20


class Packet(NamedTuple):
    """One captured packet.

    Attributes:
        time: seconds since the epoch.
        length: bytes on the wire, link header included; may exceed ``len(data)``.
        data: what was kept of it, from its IP header on.
    """

    time: float
    length: int
    data: bytes


def read_packets(path: Path) -> Iterator[Packet]:
    """Yield the IP packets of a capture file in order; other frames come with empty ``data``.

    Raises:
        CaptureFailed: the file is missing, is no classic pcap file of Ethernet or raw IP, or is
            cut off in mid-packet.
    """
    try:
        with path.open("rb") as stream:
            yield from _packets(stream, path)
    except OSError as error:
        raise CaptureFailed(f"{path} could not be read", why=str(error)) from error


def packets_with(packets: Iterable[Packet], marker: bytes) -> Iterator[Packet]:
    """Yield the packets whose kept bytes hold the marker; take a capture with a large snaplen."""
    return (packet for packet in packets if marker in packet.data)


def _packets(stream: BinaryIO, path: Path) -> Iterator[Packet]:
    header = stream.read(24)
    if len(header) < 24 or header[:4] not in _MAGICS:
        raise CaptureFailed(
            f"{path} is not a classic pcap file",
            next_step="write it with tcpdump -w, or convert it with editcap -F pcap",
        )
    order, unit = _MAGICS[header[:4]]
    (link,) = struct.unpack(order + "I", header[20:24])
    link &= 0x0FFF_FFFF  # the upper bits tell of a frame check sequence, not of the link
    if link not in (ETHERNET, RAW_IP):
        raise CaptureFailed(f"{path} holds link type {link}; only Ethernet and raw IP are read")
    ethernet = link == ETHERNET
    record = struct.Struct(order + "IIII")
    buffer, position = stream.read(_CHUNK), 0
    while True:
        if len(buffer) - position < 16 + _MOST_BYTES:
            buffer, position = buffer[position:] + stream.read(_CHUNK), 0
            if not buffer:
                return
        if len(buffer) - position < 16:
            raise CaptureFailed(f"{path} is cut off in mid-packet")
        seconds, fraction, kept, length = record.unpack_from(buffer, position)
        start = position + 16
        position = start + kept
        if kept > _MOST_BYTES or position > len(buffer):
            raise CaptureFailed(f"{path} is cut off or damaged in mid-packet")
        if ethernet:
            start = _ip_start(buffer, start, position)
        yield Packet(seconds + fraction * unit, length, buffer[start:position])


def _ip_start(buffer: bytes, start: int, end: int) -> int:
    """Where the IP header begins in an Ethernet frame; ``end`` where the frame holds no IP."""
    kind = start + 12
    while buffer[kind : kind + 2] in (b"\x81\x00", b"\x88\xa8"):  # VLAN tags
        kind += 4
    if buffer[kind : kind + 2] in (b"\x08\x00", b"\x86\xdd") and kind + 2 < end:
        return kind + 2
    return end
