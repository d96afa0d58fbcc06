"""What a packet is follows from its ports *and* its first bytes, so a port alone hides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TCP = 6
UDP = 17


class Kind(str, Enum):
    """What a packet on the outer network is, seen from the overlay."""

    WIREGUARD = "wireguard"
    PLAIN_OVERLAY = "plain overlay"
    SERVER = "server"
    OTHER = "other"


@dataclass(frozen=True)
class Ports:
    """The ports of one deployment; the defaults are this product's.

    Attributes:
        wireguard: UDP port of WireGuard.
        vxlan: UDP port of Swarm's data path, in clear where it is seen.
        swarm: TCP and UDP ports of Swarm's control plane.
        server: TCP ports of the vantage6 server.
    """

    wireguard: int = 51820
    vxlan: int = 4789
    swarm: frozenset[int] = frozenset({2377, 7946})
    server: frozenset[int] = frozenset({7601, 7443})

    def kind(self, protocol: int, source: int, destination: int, start: bytes) -> Kind:
        """Name one packet.

        Args:
            protocol: the IP protocol number.
            source: source port, 0 where there is none.
            destination: destination port, 0 where there is none.
            start: the first 8 bytes of the UDP payload, as far as they were kept.
        """
        ends = {source, destination}
        if protocol == UDP:
            if self.vxlan in ends or ends & self.swarm or _is_vxlan(start):
                return Kind.PLAIN_OVERLAY
            if self.wireguard in ends and _is_wireguard(start):
                return Kind.WIREGUARD
        elif protocol == TCP:
            if ends & self.swarm:
                return Kind.PLAIN_OVERLAY
            if ends & self.server:
                return Kind.SERVER
        return Kind.OTHER


def _is_vxlan(start: bytes) -> bool:
    """RFC 7348: flags 0x08, three reserved bytes, a network number, a reserved byte."""
    return len(start) >= 8 and start[:4] == b"\x08\0\0\0" and start[7] == 0


def _is_wireguard(start: bytes) -> bool:
    """WireGuard's messages: type 1 to 4 and three zero bytes."""
    return len(start) >= 4 and 1 <= start[0] <= 4 and start[1:4] == b"\0\0\0"
