"""Subnets for the mesh and the overlays: private, and overlapping nothing that this host knows."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from overlay.errors import UsageError

# Away from what home routers, clouds, Docker and Swarm itself take first.
_RANGE = ipaddress.IPv4Network("10.192.0.0/10")


def choose(prefix: int, used: Iterable[str]) -> str:
    """The first free private subnet with this prefix length (16 or longer), as CIDR.

    Raises:
        UsageError: none is free.
    """
    taken = list(_networks(used))
    # The last of the range first: few networks number from the top.
    for block in reversed(list(_RANGE.subnets(new_prefix=16))):
        if any(block.subnet_of(other) for other in taken):
            continue
        for candidate in block.subnets(new_prefix=prefix):
            if not any(candidate.overlaps(other) for other in taken):
                return str(candidate)
    raise UsageError(
        "no private subnet is free",
        next_step="give one with --wireguard-subnet or --overlay-subnet",
    )


def check(name: str, subnet: str, used: Iterable[str], longest: int) -> str:
    """A subnet that the operator gave, if it can work. Raises UsageError."""
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise UsageError(f"{name} {subnet!r} is not an IPv4 subnet", why=str(error)) from error
    if network.prefixlen > longest:
        raise UsageError(f"{name} {subnet} is too small", why=f"it needs /{longest} or more")
    for other in _networks(used):
        if network.overlaps(other):
            raise UsageError(f"{name} {subnet} overlaps {other}, which this host uses")
    return str(network)


def _networks(used: Iterable[str]) -> Iterator[ipaddress.IPv4Network]:
    for text in used:
        network = ipaddress.ip_network(text, strict=False)
        if isinstance(network, ipaddress.IPv4Network) and network.prefixlen:
            yield network
