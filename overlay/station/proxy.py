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
from overlay.station.relay import MAX_HEAD, EngineLostError, Relay
from overlay.station.tunnel import CHUNK

log = logging.getLogger(__name__)

# A container create is a few kB; a body beyond this is refused, never judged in part.
MAX_CREATE = 8 << 20

# The version as loosely as the engine's own router takes it: it also serves /v1.41.0/.
_CREATE_PATH = re.compile(r"(/v[0-9.]+)?/containers/create")


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
                return await Relay(self, reader, writer).run(head)
            return await self._create(name, head, reader, writer)
        except EngineLostError:
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
        relay = Relay(self, reader, writer)
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


def _create_name(head: h11.Request) -> str | None:
    """The container name of a create ("" if none), or None for every other call."""
    if head.method != b"POST":
        return None
    url = urlsplit(head.target.decode("latin-1"))
    # The engine's router matches the decoded path, so the same must be compared here.
    if not _CREATE_PATH.fullmatch(unquote(url.path)):
        return None
    return parse_qs(url.query).get("name", [""])[0]
