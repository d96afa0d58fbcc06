"""The lab's outer network overlaps nothing that the machine routes to already."""

from __future__ import annotations

import ipaddress
import json

from overlay.errors import HostError
from overlay.lab.shell import call


def free_subnet() -> str:
    """The first of 172.31.77.0/24, 172.31.78.0/24, ... that no route of the machine overlaps.

    Raises:
        HostError: all are taken.
    """
    routes = json.loads(call(["ip", "-json", "-4", "route"]).stdout or "[]")
    taken = [ipaddress.ip_network(r["dst"], False) for r in routes if r["dst"] != "default"]
    for third in (*range(77, 256), *range(0, 77)):
        subnet = ipaddress.ip_network(f"172.31.{third}.0/24")
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    raise HostError("no free subnet for the lab's network in 172.31.0.0/16")


def host_address(subnet: str, index: int) -> str:
    """Address of the index-th host: 0 is central. The first address is the bridge's own."""
    return str(ipaddress.ip_network(subnet)[2 + index])
