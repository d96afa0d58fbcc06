"""The Docker Engine of this host: Swarm membership, overlay networks and attachments.

Swarm always listens, advertises and carries data on the WireGuard address, never elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import docker
import requests
from docker.errors import APIError, DockerException, NotFound
from docker.types import IPAMConfig, IPAMPool

from overlay.errors import HostError, MissingRequirement

SOCKET = "unix:///var/run/docker.sock"
SWARM_PORT = 2377
# Docker subtracts VXLAN's 50 bytes itself: 1370 inside the containers.
UNDERLAY_MTU = 1420
LABEL = "org.v6-overlay.collaboration"

T = TypeVar("T")


@dataclass(frozen=True)
class SwarmState:
    """This engine's place in a Swarm; state is "inactive", "active", "pending" or "error"."""

    state: str
    node_id: str
    address: str
    manager: bool


@dataclass(frozen=True)
class SwarmNode:
    """A member of the Swarm as its manager sees it; status is "ready", "down" or "unknown"."""

    id: str
    hostname: str
    address: str
    status: str
    role: str


class Engine:
    """One engine. Every method raises HostError when the engine refuses.

    Raises:
        MissingRequirement: no engine answers on the socket.
    """

    def __init__(self, base_url: str = SOCKET, timeout: float = 60) -> None:
        try:
            self.client = docker.DockerClient(base_url=base_url, timeout=int(timeout))
            self.client.ping()
        except (DockerException, requests.RequestException) as error:
            raise MissingRequirement(
                f"no Docker Engine answers on {base_url}",
                why=str(error)[:300],
                next_step="systemctl start docker",
            ) from error

    def close(self) -> None:
        """Give the connection back."""
        self.client.close()

    def info(self) -> dict[str, Any]:
        """The engine's own description, as `docker info` has it."""
        return _asked("describe the engine", lambda: dict(self.client.info()))

    def subnets(self) -> list[str]:
        """The subnets of all networks of this engine, as CIDR."""
        networks = _asked("list networks", self.client.networks.list)
        found = []
        for network in networks:
            for pool in (network.attrs.get("IPAM") or {}).get("Config") or []:
                if pool.get("Subnet"):
                    found.append(str(pool["Subnet"]))
        return found

    # --- Swarm ----------------------------------------------------------------------------

    def swarm_state(self) -> SwarmState:
        """Whether this engine is in a Swarm, and as what."""
        swarm = self.info().get("Swarm") or {}
        return SwarmState(
            state=swarm.get("LocalNodeState") or "inactive",
            node_id=swarm.get("NodeID") or "",
            address=swarm.get("NodeAddr") or "",
            manager=bool(swarm.get("ControlAvailable")),
        )

    def swarm_init(self, address: str, pool: str) -> None:
        """Make this engine the manager of a new Swarm bound to a WireGuard address.

        Args:
            address: IPv4 address of the WireGuard interface.
            pool: subnet for networks that Swarm makes on its own account, as CIDR.
        """
        _asked(
            "make the Swarm",
            lambda: self.client.swarm.init(
                advertise_addr=address,
                listen_addr=f"{address}:{SWARM_PORT}",
                data_path_addr=address,
                default_addr_pool=[pool],
                subnet_size=24,
            ),
        )

    def swarm_join(self, manager: str, token: str, address: str) -> str:
        """Join as a worker over WireGuard and return the Swarm node's id.

        Args:
            manager: "address:port" of the manager inside WireGuard.
            token: the worker token; a secret.
            address: this host's own WireGuard address.
        """
        _asked(
            "join the Swarm",
            lambda: self.client.swarm.join(
                remote_addrs=[manager],
                join_token=token,
                advertise_addr=address,
                listen_addr=f"{address}:{SWARM_PORT}",
                data_path_addr=address,
            ),
        )
        return self.swarm_state().node_id

    def swarm_leave(self) -> None:
        """Leave the Swarm if this engine is in one, also as its last manager."""
        if self.swarm_state().state != "inactive":
            _asked("leave the Swarm", lambda: self.client.swarm.leave(force=True))

    def worker_token(self) -> str:
        """The token that lets a worker join; a secret."""
        swarm = _asked("read the Swarm", self.client.api.inspect_swarm)
        return str(swarm["JoinTokens"]["Worker"])

    def rotate_worker_token(self) -> None:
        """Make the present worker token worthless; members stay."""
        swarm = _asked("read the Swarm", self.client.api.inspect_swarm)
        _asked(
            "rotate the worker token",
            lambda: self.client.api.update_swarm(
                swarm["Version"]["Index"], swarm_spec=swarm["Spec"], rotate_worker_token=True
            ),
        )

    def nodes(self) -> list[SwarmNode]:
        """All members of the Swarm; needs a manager."""
        return [
            SwarmNode(
                id=node["ID"],
                hostname=node["Description"].get("Hostname", ""),
                address=node["Status"].get("Addr", ""),
                status=node["Status"].get("State", "unknown"),
                role=node["Spec"].get("Role", ""),
            )
            for node in _asked("list Swarm nodes", self.client.api.nodes)
        ]

    def remove_node(self, node_id: str) -> None:
        """Take a member off the Swarm's list, whatever its state; unknown ones are ignored."""
        _ignoring_absence(
            "remove a Swarm node", lambda: self.client.api.remove_node(node_id, force=True)
        )

    # --- networks -------------------------------------------------------------------------

    def network(self, name: str) -> dict[str, Any] | None:
        """A network's attributes by its exact name, or none."""
        for network in _asked("list networks", lambda: self.client.api.networks(names=[name])):
            if network["Name"] == name:
                return dict(network)
        return None

    def create_overlay(self, name: str, subnet: str, labels: dict[str, str]) -> None:
        """Create an attachable, internal overlay network for standalone containers."""
        _asked(
            f"create the network {name}",
            lambda: self.client.networks.create(
                name,
                driver="overlay",
                scope="swarm",
                attachable=True,
                internal=True,
                check_duplicate=True,
                labels=labels,
                options={"com.docker.network.driver.mtu": str(UNDERLAY_MTU)},
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=subnet)]),
            ),
        )

    def remove_network(self, name: str) -> None:
        """Remove a network; an absent one is ignored."""
        _ignoring_absence(
            f"remove the network {name}", lambda: self.client.api.remove_network(name)
        )

    def connect(self, container: str, network: str, aliases: Iterable[str] = ()) -> None:
        """Attach a container (running or only created) to a network under alias names."""
        _asked(
            f"attach a container to {network}",
            lambda: self.client.api.connect_container_to_network(
                container, network, aliases=list(aliases)
            ),
        )


def _asked(what: str, call: Callable[[], T]) -> T:
    """Call the engine; its refusal and its silence become HostError."""
    try:
        return call()
    except APIError as error:
        raise HostError(
            f"the Docker Engine refused to {what}", why=str(error.explanation or error)[:500]
        ) from error
    except (DockerException, requests.RequestException) as error:
        raise HostError(f"the Docker Engine did not {what}", why=str(error)[:500]) from error


def _ignoring_absence(what: str, call: Callable[[], object]) -> None:
    def attempt() -> None:
        try:
            call()
        except NotFound:
            return

    _asked(what, attempt)
