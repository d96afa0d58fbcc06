"""The station's service: proxy, gate and the loops that keep peers, guard and run files right.

Whatever is away (manager, vantage6 server, Docker Engine), the agent stays: it logs the outage
once, goes on with what it knows, and heals by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from overlay.drivers import files, guard, netlink, wireguard
from overlay.errors import HostError, OverlayError
from overlay.station.addressbook import AddressBook
from overlay.station.admission import Image
from overlay.station.config import PROXY_SOCKET, load_node
from overlay.station.containers import Containers
from overlay.station.gate import Gate
from overlay.station.local import Local
from overlay.station.proxy import Proxy
from overlay.station.runs import Runs
from overlay.station.tasks import TaskServer

ENGINE_SOCKET = "/var/run/docker.sock"
STATUS = Path("/run/v6-overlay/station-status.json")
LONG_POLL = 25.0
GUARD_SECONDS = 1.0
RETRY_SECONDS = 2.0
# systemd hands inherited sockets over from this number on.
_FIRST_FD = 3

log = logging.getLogger(__name__)


class Agent:
    """Everything behind `v6-overlay service station`."""

    def __init__(self, local: Local) -> None:
        self.local = local
        self.containers = Containers()
        self.runs = Runs()
        node_config = Path(local.policy().node_config)
        verify = local.verify_server(load_node(node_config).url)
        self.server = TaskServer(lambda: load_node(node_config), verify)
        self.book = AddressBook(local, self.server, self.containers, self.runs)
        self.gate = Gate(
            local, self.server, self.containers, self.runs, self._admitted, self.book.ended
        )
        self.restored = 0
        self._stop = threading.Event()

    async def run(self, sock: socket.socket) -> None:
        """Serve until SIGTERM or SIGINT; then let running calls end."""
        self.runs.prepare()
        proxy = Proxy(ENGINE_SOCKET, self.gate)
        await proxy.start(sock)
        loops: list[tuple[str, Callable[[], None]]] = [
            ("manager", self._follow_manager),
            ("guard", self._keep_guard),
            ("containers", self._follow_containers),
            ("address book", self.book.keep),
        ]
        for name, work in loops:
            threading.Thread(target=self._forever, args=(name, work), daemon=True).start()
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        log.info("station=%s serving %s", self.local.state["station"], PROXY_SOCKET)
        await stopped.wait()
        self._stop.set()
        await proxy.close()

    def _forever(self, name: str, work: Callable[[], None]) -> None:
        """Repeat a loop; an outage is logged when it begins and when it ends."""
        down = False
        while not self._stop.is_set():
            try:
                work()
                if down:
                    log.info("loop=%s works again", name)
                down = False
            except OverlayError as error:
                if not down:
                    log.warning("loop=%s down reason=%r", name, str(error))
                down = True
                self._stop.wait(RETRY_SECONDS)
            except Exception:
                log.exception("loop=%s failed by an unforeseen error", name)
                down = True
                self._stop.wait(RETRY_SECONDS)

    def _follow_manager(self) -> None:
        revision = -1  # the first answer always comes at once, whatever was known
        with self.local.manager() as manager:
            while not self._stop.is_set():
                answer = manager.state(revision, LONG_POLL)
                wireguard.set_peers(self.local.update(answer))
                if revision != self.local.state["revision"]:
                    revision = int(self.local.state["revision"])
                    log.info("revision=%d stations=%d", revision, len(self.local.state["stations"]))

    def _keep_guard(self) -> None:
        subnet = wireguard.load().subnet
        missing = guard.check(subnet)
        if missing:
            guard.install(subnet)
        barred = netlink.is_unreachable_barred(subnet)
        if not barred:
            wireguard.bar()
            missing.append("unreachable-route")
        if missing:
            self.restored += 1
            log.error("guard restored=%d missing=%s", self.restored, ",".join(missing))
            files.write_json(STATUS, {"guard_restored": self.restored}, 0o644)
        self._stop.wait(GUARD_SECONDS)

    def _follow_containers(self) -> None:
        since = time.time()
        gone = self.runs.keep(self.containers.alive)
        if gone:
            log.info("removed directories of ended runs %s", sorted(gone))
        self.book.restore()
        for event in self.containers.events(since):
            if event.action == "start":
                self.book.started(event.run_id, event.container)
            elif self.runs.ended(event.run_id, event.container):
                log.info("ended run=%d", event.run_id)
                self.book.ended(event.run_id)
        raise HostError("the Docker Engine closed its event stream")

    def _admitted(self, run_id: int, image: Image) -> None:
        self.book.admitted(run_id, image)


def inherited_socket() -> socket.socket | None:
    """The listening socket that systemd opened for us, if it did."""
    ours = os.environ.get("LISTEN_PID") == str(os.getpid())
    if not ours or os.environ.get("LISTEN_FDS") != "1":
        return None
    sock = socket.socket(fileno=_FIRST_FD)
    sock.setblocking(False)
    os.set_inheritable(_FIRST_FD, False)
    return sock


def own_socket(path: Path = PROXY_SOCKET) -> socket.socket:
    """A listening socket of our own, where nobody opened one for us; mode 0660."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o117)
    try:
        sock.bind(str(path))
    finally:
        os.umask(before)
    sock.listen(128)
    sock.setblocking(False)
    return sock


def serve() -> None:
    """Run the agent in the foreground, logging one line per event to standard error.

    Raises:
        HostError: this host has not joined.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    agent = Agent(Local())
    asyncio.run(agent.run(inherited_socket() or own_socket()))
