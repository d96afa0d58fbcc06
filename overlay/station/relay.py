"""One request to the Docker Engine and its answer, streamed both ways with backpressure."""

from __future__ import annotations

import asyncio
from typing import Protocol

import h11

from overlay.station.tunnel import CHUNK, raw_head, tunnel

# Go's own limit for a request head; builds send registry credentials for many hosts in headers.
MAX_HEAD = 1 << 20


class Client(Protocol):
    """The client's side of a relay."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        """The next thing the client sent."""
        ...

    async def send(self, event: h11.Event) -> None:
        """Write one event to the client."""
        ...

    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        ...


class EngineLostError(Exception):
    """The engine went away before it had sent a response head."""


class Relay:
    """One request to the engine and its response."""

    def __init__(
        self, client: Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.client = client
        self.reader = reader
        self.writer = writer
        self.method = b""
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def run(self, head: h11.Request, body: bytes | None = None) -> bool:
        """Relay as a stream; with `body` the request's body has been read already.

        Returns: whether the client's connection can carry another request.
        """
        self.method = head.method
        self.writer.write(self.http.send(_engine_head(head, body)) or b"")
        if body is not None:
            self._write_body(body)
        upload = asyncio.create_task(self._upload(body is None))
        try:
            hijacked = await self._download()
        finally:
            upload.cancel()
            await asyncio.gather(upload, return_exceptions=True)
        if hijacked:
            early, _ = self.client.http.trailing_data
            late, _ = self.http.trailing_data
            self.writer.write(early)
            self.client.writer.write(late)
            await tunnel(self.client.reader, self.client.writer, self.reader, self.writer)
            return False
        return self.client.reusable()

    async def ask(self, head: h11.Request, body: bytes) -> tuple[h11.Response, bytes]:
        """Send a whole request and return the engine's whole response."""
        self.writer.write(self.http.send(_engine_head(head, body)) or b"")
        self._write_body(body)
        response: h11.Response | None = None
        answer = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                answer += event.data
            elif isinstance(event, h11.EndOfMessage) and response is not None:
                return response, bytes(answer)

    def _write_body(self, body: bytes) -> None:
        self.writer.write(self.http.send(h11.Data(data=body)) or b"")
        self.writer.write(self.http.send(h11.EndOfMessage()) or b"")

    async def _upload(self, with_body: bool) -> None:
        try:
            while with_body:
                event = await self.client.event()
                if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                    return
                self.writer.write(self.http.send(event) or b"")  # type: ignore[arg-type]
                await self.writer.drain()
                with_body = not isinstance(event, h11.EndOfMessage)
            # A client that leaves while an answer streams must be noticed, as the engine would.
            data = await self.client.reader.read(CHUNK)
            self.client.http.receive_data(data)
            if not data:
                self.writer.write_eof()
        except (OSError, h11.LocalProtocolError):
            return  # the engine answered early and stopped reading; its answer is on its way
        except h11.RemoteProtocolError:
            # A body that breaks its own framing: the engine must not take it for complete.
            self.writer.transport.abort()

    async def _download(self) -> bool:
        """Pass the response on; True if the connection is now a raw pipe."""
        started = False
        while True:
            try:
                event = await self._event()
            except EngineLostError:
                if not started:
                    raise
                self.client.writer.transport.abort()  # a cut body must not look complete
                raise ConnectionResetError from None
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                self.client.writer.write(raw_head(event))
                return True
            if isinstance(event, h11.Response):
                started = True
                if self._unframed(event):
                    self.client.writer.write(raw_head(event))
                    return True
            await self.client.send(event)
            if isinstance(event, h11.EndOfMessage):
                return False

    def _unframed(self, response: h11.Response) -> bool:
        """Whether the body ends only with the connection: how the engine hijacks without 101."""
        framed = any(
            name in (b"content-length", b"transfer-encoding") for name, _ in response.headers
        )
        return not framed and response.status_code not in (204, 304) and self.method != b"HEAD"

    async def _event(self) -> h11.Event:
        while True:
            try:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    self.http.receive_data(await self.reader.read(CHUNK))
            except (h11.RemoteProtocolError, ConnectionError) as error:
                raise EngineLostError from error
            if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise EngineLostError
            if isinstance(event, h11.Event):
                return event


def _engine_head(head: h11.Request, body: bytes | None) -> h11.Request:
    """The request head for the engine; with `body` it is framed by that body's length."""
    drop = set()
    names = {name for name, _ in head.headers}
    if body is not None:
        drop = {b"content-length", b"transfer-encoding", b"expect"}
    elif b"transfer-encoding" in names:
        drop = {b"content-length"}  # the two together are a smuggler's tool
    headers = [
        (raw, value)
        for (name, value), (raw, _) in zip(head.headers, head.headers.raw_items(), strict=True)
        if name not in drop
    ]
    if b"host" not in names:
        headers.append((b"Host", b"docker"))
    if body is not None:
        headers.append((b"Content-Length", str(len(body)).encode()))
    return h11.Request(method=head.method, target=head.target, headers=headers)
