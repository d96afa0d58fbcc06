"""The socket proxy against a fake Docker daemon on a Unix socket."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import h11

from overlay.errors import NotAdmitted
from overlay.station.proxy import Change, Hook, Proxy

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Daemon:
    """Answers a few Docker calls; remembers what it got."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes, dict[bytes, bytes], int]] = []
        self.bodies: list[bytes] = []
        self.gone = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except ConnectionError:
            pass
        finally:
            self.gone.set()
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        http = h11.Connection(h11.SERVER)

        async def event() -> h11.Event:
            while (got := http.next_event()) is h11.NEED_DATA:
                http.receive_data(await reader.read(65536))
            return got

        async def send(*events: h11.Event) -> None:
            for item in events:
                writer.write(http.send(item) or b"")
                await writer.drain()

        while True:
            head = await event()
            if not isinstance(head, h11.Request):
                return
            target = head.target.decode()
            if "/hijack" in target:
                writer.write(
                    b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
                    if dict(head.headers).get(b"upgrade")
                    else b"HTTP/1.1 200 OK\r\n"
                    b"Content-Type: application/vnd.docker.raw-stream\r\n\r\n"
                )
                got = b"" if dict(head.headers).get(b"upgrade") else http.trailing_data[0]
                while data := await reader.read(65536):
                    got += data
                writer.write(b"heard:" + got)
                return
            size, body = 0, bytearray()
            while not isinstance(part := await event(), h11.EndOfMessage):
                if isinstance(part, h11.ConnectionClosed):
                    return
                size += len(part.data)
                if size < 1 << 20:
                    body += part.data
            self.requests.append((head.method, head.target, dict(head.headers), size))
            self.bodies.append(bytes(body))
            if "/download" in target:
                await send(
                    h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")])
                )
                for _ in range(1600):
                    await send(h11.Data(data=bytes(65536)))
                await send(h11.EndOfMessage())
            elif "/events" in target:
                await send(
                    h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")])
                )
                for number in range(3):
                    await send(h11.Data(data=b'{"n":%d}\n' % number))
                    await asyncio.sleep(0.05)
                await reader.read(1)  # an event stream ends when its reader leaves
                return
            elif "/cut" in target:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                return
            elif "/lost" in target:
                return
            else:
                create = target.endswith("containers/create") or "containers/create?" in target
                status = 201 if create and head.method == b"POST" else 200
                answer = b"" if head.method == b"HEAD" else json.dumps({"Id": "c1"}).encode()
                headers = [("Api-Version", "1.41"), ("Content-Length", str(len(answer)))]
                await send(h11.Response(status_code=status, headers=headers))
                await send(h11.Data(data=answer), h11.EndOfMessage())
            http.start_next_cycle()


async def untouched(name: str, body: bytes) -> Change | None:
    return None


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def running(tmp: Path, hook: Hook = untouched) -> AsyncIterator[tuple[Daemon, str, Proxy]]:
    daemon = Daemon()
    server = await asyncio.start_unix_server(daemon, str(tmp / "engine.sock"))
    proxy = Proxy(str(tmp / "engine.sock"), hook)
    await proxy.start(listening(tmp / "proxy.sock"))
    try:
        yield daemon, str(tmp / "proxy.sock"), proxy
    finally:
        await proxy.close(0.2)
        server.close()


class Client:
    """A plain HTTP client over h11, one connection."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_unix_connection(self.path)
        self.http = h11.Connection(h11.CLIENT)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    async def event(self) -> h11.Event:
        while (got := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.reader.read(65536))
        return got

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        headers: list[tuple[str, str]] | None = None,
    ) -> tuple[int, bytes]:
        heads = [("Host", "d"), *(headers or [("Content-Length", str(len(body)))])]
        request = h11.Request(method=method, target=target, headers=heads)
        self.writer.write(self.http.send(request) or b"")
        self.writer.write(self.http.send(h11.Data(data=body)) or b"")
        self.writer.write(self.http.send(h11.EndOfMessage()) or b"")
        status, answer = 0, bytearray()
        while not isinstance(event := await self.event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += event.data
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return status, bytes(answer)


def test_keep_alive_head_and_chunked_requests(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (daemon, path, _), Client(path) as client:
            for _ in range(3):
                assert await client.ask("GET", "/v1.41/containers/json") == (200, b'{"Id": "c1"}')
            assert await client.ask("HEAD", "/_ping") == (200, b"")
            chunked = [("Transfer-Encoding", "chunked"), ("X-Odd-Case", "kept")]
            assert (await client.ask("POST", "/build", b"abc", chunked))[0] == 200
            assert daemon.bodies[-1] == b"abc"
            assert daemon.requests[-1][2][b"x-odd-case"] == b"kept"
            assert b"content-length" not in daemon.requests[-1][2]

    asyncio.run(main())


def test_a_small_call_costs_little(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _proxy), Client(path) as client:
            await client.ask("GET", "/info")
            start = time.perf_counter()
            for _ in range(50):
                await client.ask("GET", "/info")
            assert (time.perf_counter() - start) / 50 < 0.02

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (daemon, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /a HTTP/1.1\r\nHost: d\r\n\r\nGET /b HTTP/1.1\r\nHost: d\r\n\r\n")
            got = b""
            while got.count(b'{"Id": "c1"}') < 2:
                got += await asyncio.wait_for(reader.read(65536), 5)
            assert [request[1] for request in daemon.requests] == [b"/a", b"/b"]
            writer.close()

    asyncio.run(main())


def test_100_mb_both_ways_in_bounded_memory(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (daemon, path, _):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            async with Client(path) as client:
                head = [("Host", "d"), ("Transfer-Encoding", "chunked")]
                request = h11.Request(method="POST", target="/images/load", headers=head)
                client.writer.write(client.http.send(request) or b"")
                for _ in range(1600):
                    client.writer.write(client.http.send(h11.Data(data=bytes(65536))) or b"")
                    await client.writer.drain()
                client.writer.write(client.http.send(h11.EndOfMessage()) or b"")
                while not isinstance(await client.event(), h11.EndOfMessage):
                    pass
                assert daemon.requests[-1][3] == 1600 * 65536
            async with Client(path) as client:
                request = h11.Request(method="GET", target="/download", headers=[("Host", "d")])
                client.writer.write(client.http.send(request) or b"")
                client.writer.write(client.http.send(h11.EndOfMessage()) or b"")
                size = 0
                while not isinstance(event := await client.event(), h11.EndOfMessage):
                    size += len(event.data) if isinstance(event, h11.Data) else 0
                assert size == 1600 * 65536
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 30_000  # kB

    asyncio.run(main())


def test_a_reader_that_stops_stops_the_engine(tmp_path: Path) -> None:
    """Backpressure: what the client does not read must not pile up in the proxy."""

    async def main() -> None:
        async with running(tmp_path) as (_, path, proxy):
            reader, writer = await asyncio.open_unix_connection(path, limit=1024)
            writer.write(b"GET /download HTTP/1.1\r\nHost: d\r\n\r\n")
            await reader.read(10)
            await asyncio.sleep(0.5)
            (connection,) = proxy._connections.values()
            assert connection is not None
            assert connection.writer.transport.get_write_buffer_size() < 2 << 20
            writer.close()

    asyncio.run(main())


def test_hijacked_streams_keep_half_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _proxy):
            for upgrade in (b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b""):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(
                    b"POST /containers/x/hijack HTTP/1.1\r\nHost: d\r\n" + upgrade + b"\r\n"
                )
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert head.startswith(b"HTTP/1.1 101" if upgrade else b"HTTP/1.1 200 OK")
                assert b"chunked" not in head.lower()
                writer.write(b"\x00raw\r\n\r\n")
                await asyncio.sleep(0.02)
                writer.write(b"more")
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(), 5) == b"heard:\x00raw\r\n\r\nmore"
                writer.close()

    asyncio.run(main())


def test_events_arrive_at_once_and_end_with_their_reader(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (daemon, path, _):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n")
            await asyncio.wait_for(reader.readuntil(b'{"n":0}'), 0.5)
            await asyncio.wait_for(reader.readuntil(b'{"n":2}'), 1)
            assert not daemon.gone.is_set()
            writer.close()
            await asyncio.wait_for(daemon.gone.wait(), 2)

    asyncio.run(main())


def test_fifty_connections_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _proxy):

            async def one(number: int) -> None:
                async with Client(path) as client:
                    for _ in range(5):
                        body = bytes([number]) * 1000
                        assert (await client.ask("POST", f"/x/{number}", body))[0] == 200

            await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(main())


def test_malformed_requests_get_400_and_the_next_client_is_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _proxy):
            for junk in (
                b"\x16\x03\x01\x02\x00\r\n\r\n",
                b"GET / HTTP/1.1\r\nHost\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: x\r\n\r\n",
                b"POST /containers/create HTTP/1.1\r\nHost: d\r\n"
                b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            ):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(junk)
                answer = await asyncio.wait_for(reader.read(), 5)
                assert answer.startswith(b"HTTP/1.1 400"), (junk, answer)
                writer.close()
            async with Client(path) as client:
                assert (await client.ask("GET", "/info"))[0] == 200

    asyncio.run(main())


def test_a_cut_body_is_never_made_to_look_complete(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _proxy):
            async with Client(path) as client:
                try:
                    await client.ask("GET", "/cut")
                except (ConnectionError, h11.RemoteProtocolError):
                    pass
                else:
                    raise AssertionError("a truncated answer passed for whole")
            async with Client(path) as client:
                status, body = await client.ask("GET", "/lost")
                assert (status, b"Docker Engine" in body) == (502, True)

    asyncio.run(main())


def test_engine_away_is_502_and_heals(tmp_path: Path) -> None:
    async def main() -> None:
        proxy = Proxy(str(tmp_path / "engine.sock"), untouched)
        await proxy.start(listening(tmp_path / "proxy.sock"))
        async with Client(str(tmp_path / "proxy.sock")) as client:
            assert (await client.ask("GET", "/info"))[0] == 502
        async with Client(str(tmp_path / "proxy.sock")) as client:
            server = await asyncio.start_unix_server(Daemon(), str(tmp_path / "engine.sock"))
            assert (await client.ask("GET", "/info"))[0] == 200
            server.close()
        await proxy.close(0.2)

    asyncio.run(main())


def test_only_creates_are_read(tmp_path: Path) -> None:
    seen: list[tuple[str, bytes]] = []

    async def hook(name: str, body: bytes) -> Change | None:
        seen.append((name, body))
        return None

    async def main() -> None:
        async with running(tmp_path, hook) as (daemon, path, _), Client(path) as client:
            for method, target in (
                ("POST", "/v1.41/containers/create?name=one"),
                ("POST", "/containers/create"),
                ("POST", "/v1.41/%63ontainers/create?name=two"),
                ("POST", "/v1.41.0/containers/create?name=three"),
                ("POST", "http://docker/v1.41/containers%2Fcreate?name=four"),
                ("GET", "/containers/create"),
                ("POST", "/v1.41/containers/create/x"),
                ("POST", "/v1.41/networks/create"),
            ):
                assert (await client.ask(method, target, b'{"a": 1}'))[0] in (200, 201)
            assert [name for name, _ in seen] == ["one", "", "two", "three", "four"]
            assert {body for _, body in seen} == {b'{"a": 1}'}
            assert all(body == b'{"a": 1}' for body in daemon.bodies)

    asyncio.run(main())


def changing(log: list[str], error: Exception | None = None) -> Hook:
    async def created(container: str) -> None:
        log.append(f"created {container}")
        if error:
            raise error

    async def failed() -> None:
        log.append("failed")

    async def hook(name: str, body: bytes) -> Change | None:
        return Change(body=b'{"changed": true}', created=created, failed=failed)

    return hook


def test_a_changed_create_and_its_answer(tmp_path: Path) -> None:
    async def main() -> None:
        log: list[str] = []
        async with running(tmp_path, changing(log)) as (daemon, path, _), Client(path) as client:
            expect = [("Content-Length", "2"), ("Expect", "100-continue")]
            answer = await client.ask("POST", "/v1.41/containers/create?name=x", b"{}", expect)
            assert answer == (201, b'{"Id": "c1"}')
            assert daemon.bodies == [b'{"changed": true}']
            assert (await client.ask("GET", "/info"))[0] == 200  # still keep-alive
        assert log == ["created c1"]

    asyncio.run(main())


def test_a_create_that_cannot_be_completed_is_a_clear_500(tmp_path: Path) -> None:
    async def main() -> None:
        log: list[str] = []
        error = NotAdmitted("the overlay network is away", why="the manager is down")
        async with running(tmp_path, changing(log, error)) as (_, path, _p), Client(path) as client:
            status, body = await client.ask("POST", "/containers/create", b"{}")
            assert status == 500
            assert "NotAdmitted: the overlay network is away" in json.loads(body)["message"]
        assert log == ["created c1"]

    asyncio.run(main())


def test_nothing_created_is_told_to_the_hook(tmp_path: Path) -> None:
    async def main() -> None:
        log: list[str] = []
        proxy = Proxy(str(tmp_path / "engine.sock"), changing(log))

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            body = b'{"message":"no such image"}'
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            writer.close()

        server = await asyncio.start_unix_server(refuse, str(tmp_path / "engine.sock"))
        await proxy.start(listening(tmp_path / "proxy.sock"))
        async with Client(str(tmp_path / "proxy.sock")) as client:
            status, body = await client.ask("POST", "/containers/create", b"{}")
            assert (status, body) == (404, b'{"message":"no such image"}')
        assert log == ["failed"]
        await proxy.close(0.2)
        server.close()

    asyncio.run(main())


def test_an_oversized_create_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as (_, path, _p):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(
                b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Length: 20000000\r\n\r\n"
            )
            for _ in range(140):
                writer.write(bytes(65536))
            assert (await reader.read(12)) == b"HTTP/1.1 413"
            writer.close()

    asyncio.run(main())


CHILD = """
import asyncio, socket, sys
from overlay.station.proxy import Proxy
async def hook(name, body): return None
async def main():
    proxy = Proxy(sys.argv[1], hook)
    sock = socket.socket(fileno=int(sys.argv[2]))
    sock.setblocking(False)
    await proxy.start(sock)
    print("up", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await proxy.close(2)
asyncio.run(main())
"""


def test_restart_on_an_inherited_socket_fails_no_call(tmp_path: Path) -> None:
    """The listening socket outlives the process: calls made meanwhile wait in its queue."""

    def start(fd: int) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "engine.sock"), str(fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[fd],
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        return child

    async def main() -> None:
        server = await asyncio.start_unix_server(Daemon(), str(tmp_path / "engine.sock"))
        sock = listening(tmp_path / "proxy.sock")
        first = await asyncio.to_thread(start, sock.fileno())
        stop = asyncio.Event()
        calls = 0

        async def caller() -> None:
            nonlocal calls
            while not stop.is_set():
                async with Client(str(tmp_path / "proxy.sock")) as client:
                    assert (await client.ask("GET", "/info"))[0] == 200
                    calls += 1

        callers = [asyncio.create_task(caller()) for _ in range(3)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(first.communicate)
        second = await asyncio.to_thread(start, sock.fileno())
        before = calls
        await asyncio.sleep(0.2)
        assert calls > before > 0
        stop.set()
        await asyncio.gather(*callers)
        await asyncio.to_thread(second.communicate)
        server.close()

    asyncio.run(main())
