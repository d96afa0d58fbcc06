"""A two-way pipe between two Unix streams that keeps half-closes, byte for byte."""

from __future__ import annotations

import asyncio
import select

import h11

#: Bytes moved at a time; also the read limit of every stream, so memory stays bounded.
CHUNK = 256 * 1024


async def tunnel(
    a_reader: asyncio.StreamReader,
    a_writer: asyncio.StreamWriter,
    b_reader: asyncio.StreamReader,
    b_writer: asyncio.StreamWriter,
) -> None:
    """Copy both ways until both directions ended, or one side has closed altogether."""
    copies = [
        asyncio.create_task(_copy(a_reader, b_writer)),
        asyncio.create_task(_copy(b_reader, a_writer)),
    ]
    writers = [a_writer, b_writer]
    try:
        pending = set(copies)
        while pending:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # An end that has closed wholly reads nothing more: waiting for the other is a leak.
            if any(_hung_up(writer) for writer in writers):
                break
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
        for writer in writers:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        return


def _hung_up(writer: asyncio.StreamWriter) -> bool:
    sock = writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def raw_head(event: h11.InformationalResponse | h11.Response) -> bytes:
    """A response head as it came, for responses whose framing must not be touched."""
    lines = [b"HTTP/1.1 %d %s" % (event.status_code, bytes(event.reason))]
    lines += [b"%s: %s" % (name, value) for name, value in event.headers.raw_items()]
    return b"\r\n".join(lines) + b"\r\n\r\n"
