"""Links, addresses and routes of this network namespace; each function is idempotent."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from overlay.errors import HostError, MissingRequirement

# The route's metric: behind every route that anything else makes.
LAST_RESORT = 0xFFFFFF00
_PROBE = "v6o-probe"


@contextmanager
def _netlink(what: str) -> Iterator[Any]:
    """A netlink socket; the kernel's refusal becomes HostError."""
    try:
        with IPRoute() as route:
            yield route
    except NetlinkError as error:
        if error.code == errno.EPERM:
            raise MissingRequirement(
                f"cannot {what}", why="this is not root", next_step="run it again with sudo"
            ) from error
        raise HostError(f"the kernel refused to {what}", why=str(error)) from error


def kernel_makes(kind: str) -> bool:
    """Whether the kernel can make links of this kind; the module is loaded if there is one."""
    with _netlink(f"make a {kind} link") as route:
        try:
            route.link("add", ifname=_PROBE, kind=kind)
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                return False
            if error.code != errno.EEXIST:
                raise
        index = _index(route, _PROBE)
        if index is not None:
            route.link("del", index=index)
    return True


def ensure_link(name: str, kind: str) -> None:
    """Make a link unless there is one of this name."""
    with _netlink(f"make the link {name}") as route:
        if _index(route, name) is None:
            route.link("add", ifname=name, kind=kind)


def delete_link(name: str) -> None:
    """Delete a link; an absent one is ignored."""
    with _netlink(f"delete the link {name}") as route:
        index = _index(route, name)
        if index is not None:
            route.link("del", index=index)


def is_up(name: str) -> bool:
    """Whether a link exists and is up."""
    with _netlink(f"look at the link {name}") as route:
        index = _index(route, name)
        return index is not None and bool(route.link("get", index=index)[0]["flags"] & 1)


def configure_link(name: str, address: str, mtu: int) -> None:
    """Give a link exactly one IPv4 address ("a.b.c.d/n") and an MTU, and set it up."""
    wanted = ipaddress.ip_interface(address)
    with _netlink(f"configure the link {name}") as route:
        index = _index(route, name)
        if index is None:
            raise HostError(f"there is no link {name}")
        for item in route.get_addr(index=index, family=2):
            present = f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
            if present != str(wanted):
                route.addr("del", index=index, address=present)
        route.addr(
            "replace", index=index, address=str(wanted.ip), prefixlen=wanted.network.prefixlen
        )
        route.link("set", index=index, mtu=mtu, state="up")


def ensure_unreachable(subnet: str) -> None:
    """Have an `unreachable` route for a subnet, behind every other route for it."""
    with _netlink(f"bar {subnet}") as route:
        route.route("replace", dst=subnet, type="unreachable", priority=LAST_RESORT)


def is_unreachable_barred(subnet: str) -> bool:
    """Whether the `unreachable` route for a subnet is there."""
    wanted = ipaddress.ip_network(subnet)
    with _netlink("list routes") as route:
        return any(
            item["type"] == 7
            and item.get_attr("RTA_DST") == str(wanted.network_address)
            and item["dst_len"] == wanted.prefixlen
            for item in route.get_routes(family=2)
        )


def remove_unreachable(subnet: str) -> None:
    """Take the `unreachable` route away; an absent one is ignored."""
    if is_unreachable_barred(subnet):
        with _netlink(f"open {subnet}") as route:
            route.route("del", dst=subnet, type="unreachable", priority=LAST_RESORT)


def subnets_in_use() -> list[str]:
    """All IPv4 subnets that this host has an address in or a route to, as CIDR."""
    found = set()
    with _netlink("list routes") as route:
        for item in route.get_routes(family=2):
            if item.get_attr("RTA_DST") and item["type"] in {1, 7} and item["dst_len"]:
                found.add(f"{item.get_attr('RTA_DST')}/{item['dst_len']}")
        for item in route.get_addr(family=2):
            interface = ipaddress.ip_interface(
                f"{item.get_attr('IFA_ADDRESS')}/{item['prefixlen']}"
            )
            found.add(str(interface.network))
    return sorted(found)


def _index(route: Any, name: str) -> int | None:
    found = route.link_lookup(ifname=name)
    return int(found[0]) if found else None
