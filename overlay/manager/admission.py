"""Who may enrol: every rule is a lookup that refuses by name, and none changes anything."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import replace

from overlay import identity
from overlay.errors import EnrolmentRefused
from overlay.manager.messages import Caller, EnrolRequest
from overlay.manager.registry import Collaboration, Pending, Registry, Station, Token, token_hash
from overlay.manager.settings import Settings


class Admission:
    """The rules, over the registry as it is at the moment of the call.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, settings: Settings, registry: Registry, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock

    def collaboration(self, caller: Caller) -> Collaboration:
        """The caller's collaboration, if it is served here."""
        collaboration = self._registry.collaboration(caller.collaboration_id)
        if collaboration is None:
            raise EnrolmentRefused(
                f"collaboration {caller.collaboration_id} has no overlay here",
                next_step=f"v6-overlay init --collaboration {caller.collaboration_id}",
                station=caller.station,
            )
        return collaboration

    def usable_token(self, caller: Caller, text: str) -> Token:
        """The token, if it is this caller's, unused and fresh."""
        token = self._registry.token(token_hash(text))
        again = "ask the central host for a new one: v6-overlay token create --station NAME"
        if token is None:
            raise EnrolmentRefused("the join token is unknown", next_step=again)
        bound_to = (token.collaboration_id, token.station)
        if bound_to != (caller.collaboration_id, caller.station):
            raise EnrolmentRefused(
                "the join token is for another station",
                why=f"the vantage6 server says that this is {caller.station} of collaboration"
                f" {caller.collaboration_id}",
                next_step=again,
                station=caller.station,
            )
        if token.used:
            raise EnrolmentRefused("the join token was used", next_step=again)
        if token.expires <= self._clock():
            raise EnrolmentRefused("the join token has expired", next_step=again)
        return token

    def station_for(self, caller: Caller, request: EnrolRequest, hashed: str) -> Station:
        """The station as it will be; a retry with the same keys gets the same address."""
        station = Station(
            collaboration_id=caller.collaboration_id,
            name=caller.station,
            organization_id=caller.organization_id,
            node_id=caller.node_id,
            wireguard_key=request.wireguard_public_key,
            wireguard_address="",
            endpoint=request.endpoint,
            station_key=identity.key_fingerprint(identity.public_key(request.csr)),
            client_key=identity.key_fingerprint(identity.public_key(request.client_csr)),
        )
        admitted = self._registry.station(station.collaboration_id, station.name)
        if admitted is not None and admitted.organization_id != station.organization_id:
            raise EnrolmentRefused(
                f"the station name {station.name} is another organization's",
                why="two organizations' names differ only in signs that a station name drops",
                next_step="rename one of the organizations on the vantage6 server",
                station=station.name,
            )
        for pending in self._registry.pending():
            other = pending.station
            if (other.collaboration_id, other.name) != (station.collaboration_id, station.name):
                continue
            keys = (other.station_key, other.client_key, other.wireguard_key)
            if pending.token_hash != hashed or keys != (
                station.station_key,
                station.client_key,
                station.wireguard_key,
            ):
                raise EnrolmentRefused(
                    "another enrolment of this station is open",
                    why="only the same keys may try again before it ends",
                    next_step="wait five minutes, or let the first join finish",
                    station=station.name,
                )
            return replace(station, wireguard_address=other.wireguard_address)
        return replace(station, wireguard_address=self._address_for(station))

    def _address_for(self, station: Station) -> str:
        """The host's address if its key is known for the same organization, else a free one."""
        known = self._registry.stations() + [item.station for item in self._registry.pending()]
        for other in known:
            if other.wireguard_key == station.wireguard_key:
                if other.organization_id != station.organization_id:
                    raise EnrolmentRefused("the WireGuard key belongs to another station")
                return other.wireguard_address
        taken = {other.wireguard_address for other in known} | {self._settings.wireguard_ip}
        for address in ipaddress.ip_network(self._settings.wireguard_subnet).hosts():
            if str(address) not in taken:
                return str(address)
        raise EnrolmentRefused("the WireGuard subnet has no free address")

    def pending_of(self, caller: Caller, hashed: str) -> Pending:
        """The open enrolment of this token, if it is this caller's."""
        for pending in self._registry.pending():
            station = pending.station
            mine = (station.collaboration_id, station.node_id) == (
                caller.collaboration_id,
                caller.node_id,
            )
            if pending.token_hash == hashed and mine and pending.expires > self._clock():
                return pending
        raise EnrolmentRefused(
            "there is no open enrolment for this token and station",
            why="it was never begun, has ended, or was not confirmed within five minutes",
            next_step="run the join command again",
        )

    def admitted_before(self, caller: Caller, hashed: str, node_id: str) -> Station | None:
        """The station if this very confirmation was made before and its answer was lost."""
        token = self._registry.token(hashed)
        if token is None or not token.used:
            return None
        station = self._registry.station(token.collaboration_id, token.station)
        if station and (station.node_id, station.swarm_node_id) == (caller.node_id, node_id):
            return station
        return None
