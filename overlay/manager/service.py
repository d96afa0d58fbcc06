"""The rules of enrolment: one token, one station, once; and nothing half-joined is left.

A station is first *pending* (it has certificates and a WireGuard peer, for five minutes) and is
admitted when its Swarm node stands at the WireGuard address that it was given. No HTTP in here.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Protocol

from overlay.drivers.docker_engine import SWARM_PORT, SwarmNode
from overlay.drivers.wireguard import PORT, Peer
from overlay.errors import EnrolmentRefused, OverlayError
from overlay.manager.admission import Admission
from overlay.manager.authority import Authority
from overlay.manager.messages import Caller, EnrolRequest, text_field
from overlay.manager.registry import Pending, Registry, Station, token_hash
from overlay.manager.settings import Settings

PENDING_SECONDS = 300.0
READY_SECONDS = 10.0
LONGEST_POLL = 30.0

log = logging.getLogger(__name__)


class Swarm(Protocol):
    """What enrolment needs of the Docker Engine."""

    def nodes(self) -> list[SwarmNode]:
        """Members of the Swarm."""

    def remove_node(self, node_id: str) -> None:
        """Take a member off the list."""

    def worker_token(self) -> str:
        """The token that lets a worker join."""

    def rotate_worker_token(self) -> None:
        """Make the present worker token worthless."""


class Enrolment:
    """The enrolment service.

    Args:
        central: this host as a peer of the mesh.
        set_peers: makes exactly these peers known to this host's WireGuard.
        clock: Unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        authority: Authority,
        swarm: Swarm,
        central: Peer,
        set_peers: Callable[[Sequence[Peer]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.registry = registry
        self.authority = authority
        self._swarm = swarm
        self._central = central
        self._set_peers = set_peers
        self._clock = clock
        self._rules = Admission(settings, registry, clock)
        self._lock = threading.RLock()
        self._mesh_is_stale = False
        self._changed = threading.Condition()

    # --- a station's three calls ------------------------------------------------------------

    def enrol(self, caller: Caller, body: Any) -> dict[str, Any]:
        """Check a station's right to join and give it what it needs; it is pending then.

        Raises:
            EnrolmentRefused: with the reason; nothing was changed.
            HostError: the engine or WireGuard of this host does not do its part.
        """
        request = EnrolRequest.parse(body, caller.remote_address)
        with self._lock:
            self.expire()
            token = self._rules.usable_token(caller, request.token)
            collaboration = self._rules.collaboration(caller)
            station = self._rules.station_for(caller, request, token.hash)
            certificates = self._certificates(request, station)
            worker_token = self._swarm.worker_token()
            pending = Pending(token.hash, self._clock() + PENDING_SECONDS, station)
            self.registry.put_pending(pending)
            try:
                self.sync_mesh()
            except OverlayError:
                self.registry.drop_pending(token.hash)
                raise
        log.info("station %s of collaboration %d enrols", station.name, collaboration.id)
        return {
            "collaboration_id": collaboration.id,
            "station": station.name,
            "organization_id": caller.organization_id,
            "node_id": caller.node_id,
            **certificates,
            "manager_api": self.settings.agent_url,
            "wireguard": {
                "address": f"{station.wireguard_address}/{self.settings.prefix}",
                "subnet": self.settings.wireguard_subnet,
                "port": PORT,
                "peers": self._peers_of(station),
            },
            "swarm": {
                "manager": f"{self.settings.wireguard_ip}:{SWARM_PORT}",
                "worker_token": worker_token,
            },
            "network": {"name": collaboration.network, "subnet": collaboration.subnet},
        }

    def confirm(self, caller: Caller, body: Any) -> dict[str, Any]:
        """Admit a pending station whose Swarm node stands at its WireGuard address.

        Raises:
            EnrolmentRefused: with the reason; the station stays pending.
            HostError: the engine does not do its part; the station stays pending.
        """
        hashed = token_hash(text_field(body, "token"))
        node_id = text_field(body, "swarm_node_id")
        admitted = self._rules.admitted_before(caller, hashed, node_id)
        if admitted is not None:
            return {"station": admitted.name, "revision": self.registry.revision()}
        station = self._rules.pending_of(caller, hashed).station
        self._wait_until_ready(station, node_id)
        with self._lock:
            station = self._rules.pending_of(caller, hashed).station
            replaced = self.registry.station(station.collaboration_id, station.name)
            # What may fail comes first: an error must mean that the station is not admitted.
            self._swarm.rotate_worker_token()
            if replaced is not None and replaced.swarm_node_id != node_id:
                self._swarm.remove_node(replaced.swarm_node_id)
            self.registry.admit(hashed, replace(station, swarm_node_id=node_id))
            self._sync_or_later()
        with self._changed:
            self._changed.notify_all()
        log.info("station %s of collaboration %d joined", station.name, station.collaboration_id)
        return {"station": station.name, "revision": self.registry.revision()}

    def abort(self, caller: Caller, body: Any) -> dict[str, Any]:
        """Undo a pending enrolment on the station's own word; its token may be used again."""
        with self._lock:
            pending = self._rules.pending_of(caller, token_hash(text_field(body, "token")))
            self._withdraw(pending)
        return {"station": pending.station.name}

    def expire(self) -> None:
        """Undo the enrolments that were not confirmed in time, and what could not be undone."""
        with self._lock:
            if self._mesh_is_stale:
                self.sync_mesh()
            for pending in self.registry.pending():
                if pending.expires <= self._clock():
                    log.warning("enrolment of %s was not confirmed", pending.station.name)
                    self._withdraw(pending)

    # --- what agents ask ----------------------------------------------------------------------

    def state(self, station: Station, revision: int, wait: float) -> dict[str, Any]:
        """A station's view of its collaboration, at once or as soon as it differs.

        Args:
            revision: what the agent holds already; 0 for nothing.
            wait: seconds to wait for a newer one, at most 30.
        """
        deadline = time.monotonic() + min(max(wait, 0.0), LONGEST_POLL)
        with self._changed:
            while self.registry.revision() == revision:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
        number = self.registry.revision()
        collaboration = self.registry.collaboration(station.collaboration_id)
        if collaboration is None:
            raise EnrolmentRefused("this collaboration is not served here", station=station.name)
        return {
            "revision": number,
            "peers": self._peers_of(station),
            "stations": [
                {
                    "station": item.name,
                    "organization_id": item.organization_id,
                    "node_id": item.node_id,
                }
                for item in self.registry.stations(station.collaboration_id)
            ],
            "network": {"name": collaboration.network, "subnet": collaboration.subnet},
        }

    def sync_mesh(self) -> None:
        """Make this host's WireGuard know every admitted and every pending station."""
        stations = self.registry.stations() + [item.station for item in self.registry.pending()]
        # The newest of an address or a key wins: a pending station replaces its older self.
        by_key = {item.wireguard_key: _peer(item) for item in stations}
        self._mesh_is_stale = True
        self._set_peers(list(by_key.values()))
        self._mesh_is_stale = False

    # --- rules --------------------------------------------------------------------------------

    def _certificates(self, request: EnrolRequest, station: Station) -> dict[str, str]:
        now = datetime.fromtimestamp(self._clock(), timezone.utc)
        scope = (station.name, station.collaboration_id, now)
        ca = self.authority.collaboration_ca(station.collaboration_id)
        return {
            "ca": ca.read_text(),
            "station_certificate": self.authority.station_certificate(request.csr, *scope).decode(),
            "client_certificate": self.authority.client_certificate(
                request.client_csr, *scope
            ).decode(),
        }

    def _wait_until_ready(self, station: Station, node_id: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            found = [node for node in self._swarm.nodes() if node.id == node_id]
            if found and found[0].status == "ready":
                break
            if time.monotonic() >= deadline:
                state = found[0].status if found else "unknown"
                raise EnrolmentRefused(
                    "the station's Swarm node is not ready", why=f"its state is {state}"
                )
            time.sleep(0.1)
        if found[0].address != station.wireguard_address or found[0].role != "worker":
            raise EnrolmentRefused(
                "the Swarm node is not this station's",
                why=f"it is a {found[0].role} at {found[0].address},"
                f" not a worker at {station.wireguard_address}",
                station=station.name,
            )

    def _withdraw(self, pending: Pending) -> None:
        """Leave nothing of an enrolment: no peer, no Swarm node, no token that was shown."""
        # The note of it goes last: what fails on the way is tried again.
        self._swarm.rotate_worker_token()
        members = {item.swarm_node_id for item in self.registry.stations()}
        for node in self._swarm.nodes():
            at_address = node.address == pending.station.wireguard_address
            if at_address and node.role == "worker" and node.id not in members:
                self._swarm.remove_node(node.id)
        self.registry.drop_pending(pending.token_hash)
        self._sync_or_later()

    def _sync_or_later(self) -> None:
        """The mesh after a decision that stands; `expire` goes on where WireGuard is away."""
        try:
            self.sync_mesh()
        except OverlayError as error:
            log.warning("the mesh is brought up to date later: %s", error)

    def _peers_of(self, station: Station) -> list[dict[str, str]]:
        peers = [self._central] + [
            _peer(item)
            for item in self.registry.stations(station.collaboration_id)
            if item.name != station.name
        ]
        return [vars(peer) for peer in peers]


def _peer(station: Station) -> Peer:
    return Peer(station.name, station.wireguard_key, station.endpoint, station.wireguard_address)
