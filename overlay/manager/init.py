"""`v6-overlay init` as steps: each looks first, changes only what is not so, and can be repeated.

The order keeps the promise that nothing of Swarm is ever outside WireGuard: the guard and the
interface are up, and are so at every boot, before the engine hears of a Swarm.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

import requests

from overlay.drivers import guard, systemd, wireguard
from overlay.drivers.docker_engine import LABEL, Engine
from overlay.errors import HostError, MissingRequirement, UsageError
from overlay.manager import inventory, settings
from overlay.manager.authority import Authority
from overlay.manager.choice import Request, choose
from overlay.manager.registry import Collaboration, Registry
from overlay.manager.settings import Settings

HEALTH_SECONDS = 20.0


@dataclass(frozen=True)
class Step:
    """One step: its title, whether it is done already, and how to do it."""

    title: str
    done: Callable[[], bool]
    apply: Callable[[], object]


@dataclass
class Central:
    """The central host on its way to what was asked for."""

    request: Request
    engine: Engine
    directory: Path = settings.DIRECTORY
    backend: str = ""
    wanted: Settings = field(init=False)
    overlay_subnet: str = field(init=False)

    def __post_init__(self) -> None:
        self.authority = Authority(self.directory)
        self.wanted, self.overlay_subnet = choose(self.request, self.engine, self.directory)

    @property
    def registry(self) -> Path:
        """The registry's file."""
        return self.directory / "registry.sqlite"

    def steps(self) -> list[Step]:
        """All steps, in order."""
        request, authority, wanted = self.request, self.authority, self.wanted
        name = f"v6-overlay-c{request.collaboration_id}"
        manager = systemd.manager_units()
        mesh = systemd.wireguard_units(self.backend)
        now = datetime.now(timezone.utc)
        ca = authority.collaboration_ca(request.collaboration_id)
        return [
            Step("write the settings", self._settings_saved, lambda: self._save_settings()),
            Step(
                f"make the WireGuard key and address {wanted.wireguard_ip}",
                self._mesh_configured,
                self._configure_mesh,
            ),
            Step(
                f"install the guard and WireGuard ({self.backend}), also for every boot",
                lambda: (
                    not systemd.missing(mesh)
                    and systemd.is_active(systemd.GUARD)
                    and systemd.is_active(systemd.WIREGUARD)
                    and wireguard.is_up()
                    and not guard.check(wanted.wireguard_subnet)
                ),
                lambda: self._start_mesh(mesh),
            ),
            Step(
                "make this engine a Swarm manager inside WireGuard",
                lambda: self.engine.swarm_state().manager,
                lambda: self.engine.swarm_init(wanted.wireguard_ip, wanted.swarm_pool),
            ),
            Step(
                f"create the overlay network {name} ({self.overlay_subnet})",
                lambda: self.engine.network(name) is not None,
                lambda: self.engine.create_overlay(
                    name, self.overlay_subnet, {LABEL: str(request.collaboration_id)}
                ),
            ),
            Step(
                "make the manager's CA",
                authority.manager_ca.exists,
                lambda: authority.make_manager_ca(now),
            ),
            Step(
                "make the manager's TLS certificate",
                lambda: self._tls_names() <= authority.tls_names(),
                lambda: authority.make_tls(sorted(self._tls_names() | authority.tls_names()), now),
            ),
            Step(
                f"make the CA of collaboration {request.collaboration_id}",
                ca.exists,
                lambda: authority.make_collaboration_ca(request.collaboration_id, now),
            ),
            Step("enter the collaboration in the registry", self._registered, self._register),
            Step(
                "start the manager, also at every boot",
                lambda: not systemd.missing(manager) and systemd.is_active(systemd.MANAGER),
                lambda: self._start_manager(manager),
            ),
            Step(
                f"write the Ansible inventory {request.inventory}",
                lambda: inventory.is_written(request.inventory, self._inventory()),
                lambda: inventory.write(request.inventory, self._inventory()),
            ),
        ]

    # --- the steps' own questions and actions ---------------------------------------------------

    def _settings_saved(self) -> bool:
        path = self.directory / "config.json"
        return path.exists() and settings.load(self.directory) == self.wanted

    def _save_settings(self) -> None:
        settings.save(self.wanted, self.directory)
        if systemd.is_active(systemd.MANAGER):
            systemd.stop(systemd.MANAGER)

    def _mesh_configured(self) -> bool:
        if not (wireguard.DIRECTORY / "config.json").exists():
            return False
        config = wireguard.load()
        return (config.backend, config.ip) == (self.backend, self.wanted.wireguard_ip)

    def _configure_mesh(self) -> None:
        wireguard.ensure_key()
        address = f"{self.wanted.wireguard_ip}/{self.wanted.prefix}"
        # The manager adds the stations' peers again when it starts.
        wireguard.save(wireguard.Config(self.backend, address))

    def _start_mesh(self, units: dict[str, str]) -> None:
        changed = systemd.install(units)
        systemd.restart(systemd.GUARD)
        if changed or not systemd.is_active(systemd.WIREGUARD) or not wireguard.is_up():
            systemd.restart(systemd.WIREGUARD)

    def _tls_names(self) -> set[str]:
        names = {self.request.address, socket.gethostname(), "localhost", "127.0.0.1"}
        names |= {self.wanted.wireguard_ip, urlsplit(self.wanted.enrol_url).hostname or ""}
        return names - {""}

    def _registered(self) -> bool:
        if not self.registry.exists():
            return False
        registry = Registry(self.registry)
        try:
            return registry.collaboration(self.request.collaboration_id) is not None
        finally:
            registry.close()

    def _register(self) -> None:
        registry = Registry(self.registry)
        try:
            number = self.request.collaboration_id
            name = self.request.collaboration_name or f"collaboration {number}"
            network = f"v6-overlay-c{number}"
            registry.put_collaboration(Collaboration(number, name, network, self.overlay_subnet))
        finally:
            registry.close()

    def _start_manager(self, units: dict[str, str]) -> None:
        systemd.install(units)
        systemd.restart(systemd.MANAGER)
        wait_healthy(self.authority)

    def _inventory(self) -> str:
        return inventory.text(self.wanted, self.request.collaboration_id, self.request.stations)


def prepare(request: Request) -> Central:
    """Look whether this host can be the central host; changes nothing.

    Raises:
        MissingRequirement: with what is missing and how to get it.
        UsageError: the engine belongs to another Swarm, or a subnet cannot be used.
    """
    if os.geteuid() != 0:
        raise MissingRequirement("init needs root", next_step="run it again with sudo")
    systemd.require()
    if shutil.which("nft") is None:
        raise MissingRequirement("nft is not installed", next_step="apt-get install nftables")
    backend = wireguard.backend()
    engine = Engine()
    if engine.info().get("LiveRestoreEnabled"):
        raise MissingRequirement(
            "the Docker Engine has live-restore on",
            why="Docker Swarm does not work with it",
            next_step='set "live-restore": false in /etc/docker/daemon.json and restart docker',
        )
    central = Central(request, engine, backend=backend)
    swarm = engine.swarm_state()
    ours = swarm.manager and swarm.address == central.wanted.wireguard_ip
    if swarm.state != "inactive" and not ours:
        raise UsageError(
            "this Docker Engine is in another Swarm already",
            why=f"its address there is {swarm.address or 'unknown'}",
            next_step="use an engine of its own, or leave that Swarm: docker swarm leave",
        )
    return central


def wait_healthy(authority: Authority) -> None:
    """Wait until the manager answers on its TLS port. Raises HostError after 20 s."""
    url = f"https://127.0.0.1:{settings.TLS_PORT}/api/overlay/health"
    deadline = time.monotonic() + HEALTH_SECONDS
    with requests.Session() as session:
        session.trust_env = False
        while True:
            try:
                if session.get(url, verify=str(authority.manager_ca), timeout=2).ok:
                    return
            except requests.RequestException:
                pass
            if time.monotonic() >= deadline:
                raise HostError(
                    "the manager does not answer",
                    next_step=f"journalctl -u {systemd.MANAGER}",
                )
            time.sleep(0.05)
