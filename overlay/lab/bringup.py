"""The steps of `up`: each is what an operator does on real hosts; side by side where it helps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from overlay.lab import data as station_data
from overlay.lab import hosts, vantage6
from overlay.lab.engine import Engine
from overlay.lab.hosts import HostPlan, Text
from overlay.lab.images import Images
from overlay.lab.network import host_address
from overlay.lab.product import Product
from overlay.lab.seed import REGISTRY_CONFIG, copy_data_root, copy_registry, image_digest
from overlay.lab.shell import Progress, call, in_parallel
from overlay.lab.state import HOSTS_DATA, LabState, ssh_key

CENTRAL = "central"


class BringUp:
    """Makes the hosts of one lab and what runs on them, and fills in the lab's state."""

    def __init__(
        self, engine: Engine, state: LabState, images: Images, seed: Path, progress: Progress
    ) -> None:
        self._engine = engine
        self._state = state
        self._images = images
        self._seed = seed
        self._progress = progress
        self._joining = threading.Lock()

    def run(self, stations: list[str], csvs: list[Path]) -> None:
        """Everything from the network to the last node online."""
        self._entities = vantage6.new_entities(stations)
        self._addresses = {
            name: host_address(self._state.subnet, index)
            for index, name in enumerate([CENTRAL, *stations])
        }
        self._product = Product(self._engine, self._state)
        self._describe()
        self._progress(f"booting {len(self._addresses)} hosts")
        self._public_key = _new_ssh_key()
        hosts.make_network(self._engine, self._state.subnet)
        jobs: list[Callable[[], None]] = [self._central]
        jobs += [
            partial(self._station, name, index, csv)
            for index, (name, csv) in enumerate(zip(stations, csvs, strict=True))
        ]
        in_parallel(jobs)
        self._progress(f"joining {len(stations)} stations and starting their vantage6 nodes")
        others = partial(self._api.create_others, self._entities)
        in_parallel([others, *(partial(self._join, name) for name in stations)])
        self._state.organizations = self._entities.organizations
        self._progress("waiting for the nodes to come online")
        self._api.wait_online(stations, 90)
        self._state.ready = True
        self._state.save()

    def _describe(self) -> None:
        state = self._state
        state.hosts = {
            name: {"container": hosts.container(name), "address": address}
            for name, address in self._addresses.items()
        }
        state.server_url = f"http://{self._addresses[CENTRAL]}:{vantage6.HTTP_PORT}"
        state.researcher = {
            "username": "researcher",
            "password": self._entities.researcher_password,
        }
        state.admin = {"username": vantage6.ADMIN, "password": self._entities.admin_password}
        state.image = self._images.sums
        state.image_digest = image_digest(self._seed)
        state.save()

    def _central(self) -> None:
        registry = copy_registry(self._seed, CENTRAL)
        files = vantage6.server_files()
        files["/etc/docker/registry/config.yml"] = Text(REGISTRY_CONFIG.encode())
        self._boot(CENTRAL, files, [f"{registry}:/var/lib/docker-registry"])
        self._wait_engine(CENTRAL)
        self._start_unit(CENTRAL, "docker-registry.service")
        # Needs no station: goes on while they still boot.
        self._overlay_and_server()

    def _station(self, name: str, index: int, csv: Path) -> None:
        folder = HOSTS_DATA / name / "data"
        station_data.place(folder, csv, station_data.vector_csv(index))
        files = self._product.station_files()
        self._boot(name, files, [f"{folder}:/var/lib/v6lab/data"])
        self._wait_engine(name)

    def _boot(self, name: str, files: dict[str, Text], mounts: list[str]) -> None:
        copy_data_root(self._seed, name)
        files = {**files, "/root/.ssh/authorized_keys": Text(self._public_key, 0o600)}
        plan = HostPlan(name, self._addresses[name], self._addresses, files, mounts)
        hosts.start_host(self._engine, self._images.host, plan)

    def _wait_engine(self, name: str) -> None:
        hosts.wait_for(self._engine, name, "docker version", 90, "the nested Docker Engine")

    def _overlay_and_server(self) -> None:
        self._progress("v6-overlay init and the vantage6 server on the central host")
        text = vantage6.server_unit(self._product.wsgi_module, self._product.tls_files)
        unit = {"/etc/systemd/system/vantage6-server.service": text}
        hosts.put_files(self._engine, CENTRAL, unit)
        # The server loads while init works: its unit waits for the certificate that init makes.
        self._start_unit(CENTRAL, "vantage6-server.service", wait=False)
        self._product.init(self._entities.stations)
        self._api = vantage6.Api(f"{self._state.server_url}{self._state.api_path}")
        self._api.login(self._entities)
        self._api.create(self._entities)

    def _join(self, name: str) -> None:
        central = self._addresses[CENTRAL]
        files = vantage6.node_files(name, self._entities, central, self._images.node)
        hosts.put_files(self._engine, name, files)
        # Swarm's worker token changes with each join: a second join beside it costs it 10 s.
        with self._joining:
            self._product.join(name)
        self._start_unit(name, "vantage6-node.service")

    def _start_unit(self, host: str, unit: str, wait: bool = True) -> None:
        flags = [] if wait else ["--no-block"]
        hosts.exec_in(self._engine, host, ["systemctl", "enable", "--quiet", "--now", *flags, unit])


def _new_ssh_key() -> bytes:
    key = ssh_key()
    public = key.with_suffix(".pub")
    for old in (key, public):
        old.unlink(missing_ok=True)
    call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "v6-overlay lab", "-f", str(key)])
    return public.read_bytes()
