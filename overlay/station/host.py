"""What join does to this host, one reversible step each; `join` decides the order."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from overlay.drivers import files, guard, netlink, systemd, wireguard
from overlay.drivers.docker_engine import Engine
from overlay.drivers.vantage6_api import Vantage6Api
from overlay.errors import HostError, MissingRequirement, OverlayError
from overlay.station.config import (
    CONFIG,
    PROXY_SOCKET,
    STATE,
    NodeApi,
    Policy,
    load_policy,
    save_policy,
)
from overlay.station.local import Local
from overlay.station.manager_api import ManagerApi, pinned_ca

REACH_SECONDS = 25.0
AGENT_UNITS = (systemd.STATION_SOCKET, systemd.STATION)


class Host:
    """This host. Every step raises OverlayError; every `un...` may be called at any time."""

    state_directory = STATE

    # --- questions ---------------------------------------------------------------------------

    def preflight(self) -> str:
        """Check that a station can live here; returns WireGuard's backend."""
        if os.geteuid() != 0:
            raise MissingRequirement(
                "joining needs root", why="it makes interfaces and units", next_step="use sudo"
            )
        systemd.require()
        info = Engine().info()
        if info.get("LiveRestoreEnabled"):
            raise MissingRequirement(
                "the Docker Engine has live-restore on",
                why="an engine with live-restore cannot be in a Swarm",
                next_step='remove "live-restore" from /etc/docker/daemon.json and restart docker',
            )
        if any("rootless" in str(option) for option in info.get("SecurityOptions") or []):
            raise MissingRequirement("the Docker Engine runs rootless: Swarm overlays need root")
        return wireguard.backend()

    def swarm(self) -> tuple[str, str]:
        """(state, node id) of this engine's place in a Swarm."""
        state = Engine().swarm_state()
        return state.state, state.node_id

    def subnets(self) -> list[str]:
        """Subnets that this host and its engine use."""
        return [*netlink.subnets_in_use(), *Engine().subnets()]

    def node_token(self, node: NodeApi, verify: str | bool) -> str:
        """The vantage6 node token for the node's own API key; a secret."""
        with Vantage6Api(node.url, verify=verify) as api:
            token = api.node_token(node.api_key)
            api.use(token)
            api.validate_node()
            return token

    def pinned_ca(self, url: str, fingerprint: str) -> bytes:
        """The manager's CA, if it is the pinned one."""
        return pinned_ca(url, fingerprint)

    def manager(self, url: str, ca: bytes, bearer: str) -> ManagerApi:
        """The enrolment API under the node's token."""
        return ManagerApi(url, ca, bearer=bearer)

    # --- steps and their reverse -------------------------------------------------------------

    def write_state(self, content: dict[str, bytes]) -> None:
        """Write files of mode 0600 into the state directory."""
        files.private_directory(self.state_directory)
        for name, data in content.items():
            files.write(self.state_directory / name, data)

    def unwrite_state(self) -> None:
        """Remove the state directory."""
        shutil.rmtree(self.state_directory, ignore_errors=True)

    def wireguard_key(self) -> str:
        """The public key of this host's WireGuard key, which is made if need be."""
        return wireguard.ensure_key()

    def unwireguard_key(self) -> None:
        """Remove WireGuard's key and configuration."""
        shutil.rmtree(wireguard.DIRECTORY, ignore_errors=True)

    def wireguard_up(
        self, backend: str, address: str, port: int, peers: Iterable[wireguard.Peer]
    ) -> None:
        """Guard first, then WireGuard, both as enabled units."""
        wireguard.save(wireguard.Config(backend, address, port, tuple(peers)))
        systemd.install(systemd.wireguard_units(backend))
        systemd.restart(systemd.GUARD, systemd.WIREGUARD)

    def unwireguard_up(self) -> None:
        """Take units, interface, dead-end route and guard away, in this order."""
        systemd.remove(systemd.WIREGUARD, systemd.GUARD)
        if (wireguard.DIRECTORY / "config.json").exists():
            subnet = wireguard.load().subnet
            wireguard.remove()
            netlink.remove_unreachable(subnet)
        guard.remove()

    def reach(self, manager: str) -> None:
        """Wait until the manager's Swarm port answers through WireGuard."""
        host, _, port = manager.rpartition(":")
        deadline = time.monotonic() + REACH_SECONDS
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=2).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise HostError(
                        "the central host does not answer through WireGuard",
                        why=str(error),
                        next_step=f"open UDP port {wireguard.PORT} between the two hosts, or give "
                        "--address with the address at which the central host reaches this one",
                    ) from error
                time.sleep(0.2)

    def swarm_join(self, manager: str, token: str, address: str) -> str:
        """Join the Swarm on the WireGuard address; returns the Swarm node's id."""
        node_id = Engine().swarm_join(manager, token, address)
        if not node_id:
            raise HostError("the Docker Engine did not enter the Swarm")
        return node_id

    def unswarm_join(self) -> None:
        """Leave the Swarm."""
        Engine().swarm_leave()

    def write_policy(self, node_config: Path) -> None:
        """Name the node's configuration in the policy; the administrator's choices stay."""
        old = load_policy()
        save_policy(Policy(old.images, old.address_book, str(node_config)))

    def policy_exists(self) -> bool:
        """Whether there is a policy file."""
        return CONFIG.exists()

    def unwrite_policy(self) -> None:
        """Remove the policy file."""
        CONFIG.unlink(missing_ok=True)

    def agent_up(self) -> None:
        """Install, enable and start the agent's socket and service."""
        systemd.install(systemd.station_units())
        systemd.start(*AGENT_UNITS)

    def unagent_up(self) -> None:
        """Stop and remove the agent's units and its socket's directory."""
        systemd.remove(*reversed(AGENT_UNITS))
        PROXY_SOCKET.unlink(missing_ok=True)
        if PROXY_SOCKET.parent.is_dir():
            PROXY_SOCKET.parent.rmdir()

    def healthy(self) -> None:
        """One call through the proxy's socket and one to the manager."""
        Engine(f"unix://{PROXY_SOCKET}", timeout=10).close()
        local = Local()
        deadline = time.monotonic() + 10
        while True:
            try:
                with local.manager() as manager:
                    manager.state(-1, 0)
                return
            except OverlayError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def repair(self) -> list[str]:
        """Put back what a joined station lacks; returns what was missing."""
        found: list[str] = []
        config = wireguard.load()
        units = {**systemd.wireguard_units(config.backend), **systemd.station_units()}
        found += systemd.missing(units)
        systemd.install(units)
        for name in (systemd.GUARD, systemd.WIREGUARD, *AGENT_UNITS):
            if not systemd.is_active(name):
                found.append(f"{name} was stopped")
                systemd.start(name)
        if guard.check(config.subnet):
            found.append("guard rules")
            guard.install(config.subnet)
        return found


def overlaps(wanted: Iterable[str], used: Iterable[str]) -> list[str]:
    """Pairs "a with b" of subnets that overlap; both as IPv4 CIDR."""
    mine = [ipaddress.ip_network(item, strict=False) for item in wanted]
    theirs = [ipaddress.ip_network(item, strict=False) for item in used if ":" not in item]
    return [f"{a} with {b}" for a in mine for b in theirs if a.overlaps(b)]
