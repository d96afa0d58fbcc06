"""vantage6's own address book: each run's ports at the station's address, for its peers only.

Opt-in (`address_book: true`). Algorithms written for vantage6's VPN call
`client.vpn.get_addresses()` and find the station's gateway with a port of their peer's run.
A failure here is logged and never stops a run: the overlay itself does not depend on it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

from overlay.drivers import files
from overlay.errors import OverlayError
from overlay.station import gateway
from overlay.station.admission import Image
from overlay.station.containers import Containers
from overlay.station.gateway import Forward, Gateway
from overlay.station.local import Local
from overlay.station.runs import Runs
from overlay.station.tasks import TaskServer

# vantage6's own range, and the port it assumes where an image exposes none.
PORTS = range(49152, 65535)
DEFAULT_PORT = 8888
MEMORY = Path("/run/v6-overlay/addressbook.json")
KEEP_SECONDS = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A port at the station's address and the port and label of the algorithm behind it."""

    port: int
    target: int
    label: str


def entries(image: Image, taken: set[int]) -> list[Entry]:
    """One entry for each port that the image exposes, labelled as vantage6 does (`p<port>`)."""
    free = (port for port in PORTS if port not in taken)
    return [
        Entry(next(free), target, image.labels.get(f"p{target}", ""))
        for target in image.ports or (DEFAULT_PORT,)
    ]


class AddressBook:
    """Keeps vantage6's address book and the gateway's forwards in step with the runs."""

    def __init__(
        self, local: Local, server: TaskServer, containers: Containers, runs: Runs
    ) -> None:
        self.local = local
        self.server = server
        self.containers = containers
        self.runs = runs
        self._lock = threading.RLock()
        self._entries: dict[int, list[Entry]] = {}
        self._written: list[Forward] | None = None
        self._published = ""
        self._process = 0
        self._shielded: dict[str, str] = {}
        self._wake = threading.Event()

    def admitted(self, run_id: int, image: Image) -> None:
        """Publish a run's ports before its container is created."""
        try:
            if not self.local.policy().address_book:
                return
            with self._lock:
                taken = {entry.port for known in self._entries.values() for entry in known}
                self._entries[run_id] = entries(image, taken)
                self._remember()
                self._gateway()
                for entry in self._entries[run_id]:
                    self.server.publish_port(run_id, entry.port, entry.label)
        except OverlayError as error:
            log.error("address book: run=%d not published reason=%r", run_id, str(error))

    def started(self, run_id: int, container: str) -> None:
        """A run's container has its address now."""
        if run_id in self._entries:
            self._wake.set()

    def ended(self, run_id: int) -> None:
        """Take back a run's ports."""
        with self._lock:
            if self._entries.pop(run_id, None) is None:
                return
            self._remember()
        self._wake.set()
        try:
            self.server.forget_ports(run_id)
        except OverlayError as error:
            log.warning("address book: run=%d not taken back reason=%r", run_id, str(error))

    def restore(self) -> None:
        """After a restart: go on with the runs that still have their directory."""
        try:
            known = files.read_json(MEMORY)
        except OverlayError:
            return
        with self._lock:
            present = set(self.runs.present())
            for run_id, items in known.items():
                if int(run_id) in present:
                    self._entries.setdefault(int(run_id), [Entry(*item) for item in items])
            self._remember()
        for gone in set(map(int, known)) - present:
            self._entries[gone] = []
            self.ended(gone)

    def keep(self) -> None:
        """One round: bring the forwards up to date with the peers that have appeared."""
        self._wake.wait(KEEP_SECONDS)
        self._wake.clear()
        with self._lock:
            if not self._entries:
                self._shielded.clear()
            if not self._entries and not self._written:
                return
            here = self._gateway()
            wanted = [
                item
                for run_id, known in sorted(self._entries.items())
                for item in self._forwards(here, run_id, known)
            ]
            if wanted != self._written:
                gateway.forward(here, wanted)
                self._written = wanted

    def _forwards(self, here: Gateway, run_id: int, known: list[Entry]) -> list[Forward]:
        container, roster = self.runs.container(run_id), self.runs.roster(run_id)
        if container is None or roster is None:
            return []
        attributes = self.containers.inspect(container)
        networks = attributes["NetworkSettings"]["Networks"]
        address = str((networks.get(self.local.network()) or {}).get("IPAddress") or "")
        if not address:
            return []
        if self._shielded.get(container) != here.address:
            ports = [entry.target for entry in known]
            gateway.shield(int(attributes["State"]["Pid"]), ports, here.address)
            self._shielded[container] = here.address
        found = [gateway.resolve(here, str(peer["hostname"])) for peer in roster["members"]]
        sources = tuple(sorted(peer for peer in found if peer))
        return [Forward(entry.port, address, entry.target, sources) for entry in known]

    def _gateway(self) -> Gateway:
        name = f"v6-overlay-gateway-c{self.local.state['collaboration_id']}"
        here = gateway.ensure(self.containers.engine, name, self.local.network())
        if here.address != self._published:
            self.server.publish_address(int(self.local.state["node_id"]), here.address)
            self._published = here.address
            log.info("address book: station address %s", here.address)
        if here.pid != self._process:
            self._process, self._written = here.pid, None  # a new namespace has no rules yet
        return here

    def _remember(self) -> None:
        value = {
            str(run_id): [[entry.port, entry.target, entry.label] for entry in known]
            for run_id, known in self._entries.items()
        }
        files.write_json(MEMORY, value)
