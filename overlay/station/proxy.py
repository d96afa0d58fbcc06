"""Docker-socket proxy: every call passes through unchanged in meaning; only creates are read.

One client connection carries any number of requests (keep-alive); each request gets its own
connection to the Docker Engine, so a restarted engine never leaves a stale one behind. What the
engine hijacks (attach, exec, session, grpc, anything that answers 101 or without framing) becomes
a plain two-way pipe with half-close. It is a hook, not a security boundary: whoever holds the
Docker socket is root on the host anyway.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

import h11

from overlay.errors import OverlayError
from overlay.station.tunnel import CHUNK, raw_head, tunnel

log = logging.getLogger(__name__)

# Go's own limit for a request head; builds send registry credentials for many hosts in headers.
MAX_HEAD = 1 << 20
# A container create is a few kB; a body beyond this is refused, never judged in part.
MAX_CREATE = 8 << 20

_CREATE_PATH = re.compile(r"(/v[0-9]+\.[0-9]+)?/containers/create")


@dataclass(frozen=True)
class Change:
    """What a hook wants done with one create: another body, and to hear how it ended.

    `created` gets the new container's id before the client hears of it; an OverlayError from it
    is what the client gets instead (as HTTP 500). `failed` is called when nothing was created.
    """

    body: bytes
    created: Callable[[str], Awaitable[None]]
    failed: Callable[[], Awaitable[None]]


#: Gets the container name ("" if none) and the body of a create; None leaves the create alone.
Hook = Callable[[str, bytes], Awaitable[Change | None]]


class Proxy:
    """Serves a listening Unix socket and relays to the Docker Engine's.

    Args:
        upstream: path of the engine's socket.
        hook: asked about every container create.
    """

    def __init__(self, upstream: str, hook: Hook) -> None:
        self.upstream = upstream
        self.hook = hook
        self.draining = False
        self._socket: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], _Connection | None] = {}

    async def start(self, sock: socket.socket) -> None:
        """Begin to accept on a bound, listening, non-blocking socket; returns at once."""
        self._socket = sock
        asyncio.get_running_loop().add_reader(sock, self._readable)

    async def close(self, grace: float = 5.0) -> None:
        """Stop accepting, let running calls end for up to `grace` seconds, then cut the rest.

        Connections that wait in the listen queue stay there for the next process when the socket
        was inherited; those that were accepted get their first answer.
        """
        self.draining = True
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        # What was sent a moment ago gets the time to be seen as a running call.
        await asyncio.sleep(0.05)
        for connection in self._connections.values():
            if connection is not None and connection.idle and connection.served:
                connection.writer.close()
        if self._connections:
            _, late = await asyncio.wait(list(self._connections), timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _readable(self) -> None:
        """Accept what waits. asyncio's own server loses a connection when it is closed here."""
        loop = asyncio.get_running_loop()
        assert self._socket is not None  # noqa: S101 - the reader is removed before the socket
        while True:
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # out of file descriptors: some will come back
                log.error("proxy: cannot accept: %s", error)
                loop.remove_reader(self._socket)
                loop.call_later(1.0, self._resume)
                return
            accepted.setblocking(False)
            task = loop.create_task(self._serve(accepted))
            self._connections[task] = None
            task.add_done_callback(self._connections.pop)

    def _resume(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._readable)

    async def _serve(self, accepted: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - made by create_task
        reader, writer = await asyncio.open_unix_connection(sock=accepted, limit=CHUNK)
        connection = _Connection(self, reader, writer)
        self._connections[task] = connection
        try:
            await connection.run()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client or the engine went away, or we are closing: nobody to tell
        except Exception:
            log.exception("proxy: a connection ended by an unforeseen error")
        finally:
            writer.close()


class _Connection:
    """One client connection: requests one after the other until either side closes."""

    def __init__(
        self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.proxy = proxy
        self.reader = reader
        self.writer = writer
        self.idle = True
        self.served = 0
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self) -> None:
        """Answer requests until the connection can carry no further one."""
        try:
            while await self._one():
                self.http.start_next_cycle()
                self.idle = True
                self.served += 1
        except h11.RemoteProtocolError as error:
            await self._answer(400, f"malformed HTTP request: {error}")

    async def _one(self) -> bool:
        if self.proxy.draining and self.served:
            return False
        head = await self.event()
        if not isinstance(head, h11.Request):
            return False
        self.idle = False
        try:
            reader, writer = await asyncio.open_unix_connection(self.proxy.upstream, limit=CHUNK)
        except OSError as error:
            return await self._answer(502, f"the Docker Engine does not answer: {error}")
        try:
            name = _create_name(head)
            if name is None:
                return await _Relay(self, reader, writer).run(head)
            return await self._create(name, head, reader, writer)
        except _EngineLostError:
            return await self._answer(502, "the Docker Engine closed the connection")
        finally:
            writer.close()

    async def _create(
        self,
        name: str,
        head: h11.Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        body = await self._whole_body()
        if body is None:
            return await self._answer(413, f"a container create is limited to {MAX_CREATE} bytes")
        try:
            change = await self.proxy.hook(name, body)
        except OverlayError as error:
            return await self._answer(500, str(error))
        except Exception:
            log.exception("proxy: the create hook failed")
            return await self._answer(500, "v6-overlay could not judge this create; see its log")
        relay = _Relay(self, reader, writer)
        if change is None:
            return await relay.run(head, body)
        settled = False
        try:
            response, answer = await relay.ask(head, change.body)
            if response.status_code == 201:
                container = str(json.loads(answer)["Id"])
                settled = True  # from here the hook itself undoes what it must
                await change.created(container)
        except OverlayError as error:
            return await self._answer(500, str(error))
        finally:
            if not settled:
                await change.failed()
        for event in (response, h11.Data(data=answer), h11.EndOfMessage()):
            await self.send(event)
        return self.reusable()

    async def _whole_body(self) -> bytes | None:
        body = bytearray()
        if self.http.they_are_waiting_for_100_continue:
            await self.send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await self.event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data):
                raise ConnectionResetError
            body += event.data
            if len(body) > MAX_CREATE:
                return None

    async def event(self) -> h11.Event | type[h11.PAUSED]:
        """The next thing the client sent; raises h11.RemoteProtocolError if it is not HTTP."""
        while True:
            event = self.http.next_event()
            if isinstance(event, h11.Event) or event is h11.PAUSED:
                return event
            self.http.receive_data(await self.reader.read(CHUNK))

    async def send(self, event: h11.Event) -> None:
        """Write one event to the client and wait while its buffer is full."""
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def _answer(self, status: int, message: str) -> bool:
        """Answer in the proxy's own name, in the shape of the engine's errors."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return False
        body = json.dumps({"message": f"v6-overlay: {message}"}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        if self.http.their_state is not h11.DONE:
            headers.append(("Connection", "close"))
        await self.send(h11.Response(status_code=status, headers=headers))
        await self.send(h11.Data(data=body))
        await self.send(h11.EndOfMessage())
        return self.reusable()

    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE


class _EngineLostError(Exception):
    """The engine went away before it had sent a response head."""


class _Relay:
    """One request to the engine and its response."""

    def __init__(
        self, client: _Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
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
            except _EngineLostError:
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
                raise _EngineLostError from error
            if isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                raise _EngineLostError
            if isinstance(event, h11.Event):
                return event


def _create_name(head: h11.Request) -> str | None:
    """The container name of a create ("" if none), or None for every other call."""
    if head.method != b"POST":
        return None
    url = urlsplit(head.target.decode("latin-1"))
    # The engine's router matches the decoded path, so the same must be compared here.
    if not _CREATE_PATH.fullmatch(unquote(url.path)):
        return None
    return parse_qs(url.query).get("name", [""])[0]


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
