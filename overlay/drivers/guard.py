"""The guard: overlay and Swarm packets pass WireGuard or nothing, whatever Docker or routes do.

One nftables table of our own, replaced in one transaction. It needs no interface to exist, so it
stands at boot before WireGuard and Docker do. Each rule carries a name as its comment.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from overlay.drivers.command import run
from overlay.drivers.wireguard import INTERFACE
from overlay.errors import HostError

TABLE = "inet v6_overlay_guard"
PRIORITY = 10
# Swarm's control plane and gossip on TCP, gossip and VXLAN on UDP.
SWARM_TCP = "{ 2377, 7946 }"
SWARM_UDP = "{ 4789, 7946 }"
MANAGER_PORTS = "{ 7602, 7603 }"
# What no container may reach on any host of the mesh, through WireGuard or not.
HOST_PORTS_TCP = "{ 22, 2377, 7602, 7603, 7946 }"
_OUTSIDE_OUT = f'oifname != {{ "lo", "{INTERFACE}" }}'
_OUTSIDE_IN = f'iifname != {{ "lo", "{INTERFACE}" }}'
_CONTAINER_BRIDGES = ("docker0", "docker_gwbridge", "br-*")


@dataclass(frozen=True)
class Rule:
    """One rule that drops; `name` is unique and is its comment."""

    chain: str
    name: str
    match: str


def rules(subnet: str = "") -> list[Rule]:
    """All rules. `subnet` is the WireGuard subnet as CIDR, "" while there is none yet."""
    wanted = [
        Rule("output", "out-udp", f"{_OUTSIDE_OUT} udp dport {SWARM_UDP}"),
        Rule("output", "out-tcp", f"{_OUTSIDE_OUT} tcp dport {SWARM_TCP}"),
        Rule("output", "out-tcp-answers", f"{_OUTSIDE_OUT} tcp sport {SWARM_TCP}"),
        Rule("output", "out-udp-answers", f"{_OUTSIDE_OUT} udp sport 7946"),
        Rule("input", "in-udp", f"{_OUTSIDE_IN} udp dport {SWARM_UDP}"),
        Rule("input", "in-tcp", f"{_OUTSIDE_IN} tcp dport {SWARM_TCP}"),
        Rule("forward", "forward-udp", f'oifname "{INTERFACE}" udp dport {SWARM_UDP}'),
        Rule("forward", "forward-tcp", f'oifname "{INTERFACE}" tcp dport {HOST_PORTS_TCP}'),
    ]
    wanted += [
        Rule("input", f"in-bridge-{number}", f'iifname "{bridge}" tcp dport {MANAGER_PORTS}')
        for number, bridge in enumerate(_CONTAINER_BRIDGES)
    ]
    if subnet:
        wanted += [
            # A host answers on its WireGuard address to WireGuard only, not to its containers.
            Rule("input", "in-address", f"{_OUTSIDE_IN} ip daddr {subnet}"),
            Rule("input", "in-source", f'iifname "{INTERFACE}" ip saddr != {subnet}'),
        ]
    return wanted


def script(subnet: str = "") -> str:
    """The nft script that replaces the table in one transaction."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    for hook in ("output", "input", "forward"):
        chain = f"type filter hook {hook} priority {PRIORITY}; policy accept;"
        lines.append(f"add chain {TABLE} {hook} {{ {chain} }}")
    lines += [
        f'add rule {TABLE} {rule.chain} {rule.match} counter drop comment "{rule.name}"'
        for rule in rules(subnet)
    ]
    return "\n".join(lines) + "\n"


def install(subnet: str = "") -> None:
    """Put the table in place, replacing an older one without a gap. Raises HostError."""
    run(["nft", "-f", "-"], stdin=script(subnet))


def check(subnet: str = "") -> list[str]:
    """The names of rules (and "hook-...") that are missing or do not drop; empty is good."""
    chains, present = _table()
    missing = [f"hook-{hook}" for hook in ("output", "input", "forward") if hook not in chains]
    dropping = {
        (rule["chain"], rule.get("comment"))
        for rule in present
        if any("drop" in part for part in rule["expr"])
    }
    return missing + [r.name for r in rules(subnet) if (r.chain, r.name) not in dropping]


def counters() -> dict[str, int]:
    """Packets that each rule has dropped since it was installed, by rule name."""
    found = {}
    for rule in _table()[1]:
        for part in rule["expr"]:
            if "counter" in part:
                found[str(rule.get("comment"))] = int(part["counter"]["packets"])
    return found


def remove() -> None:
    """Take the table away; for `leave` and `uninstall` only."""
    run(["nft", "-f", "-"], stdin=f"add table {TABLE}\ndelete table {TABLE}\n")


def _table() -> tuple[set[str], list[dict[str, Any]]]:
    """The hooks that the table is on and its rules; both empty when it is not there."""
    try:
        listing = json.loads(run(["nft", "-j", "list", "table", *TABLE.split()]))
    except HostError as error:
        if "No such file" in error.why:
            return set(), []
        raise
    items = listing["nftables"]
    hooks = {item["chain"].get("hook") for item in items if "chain" in item}
    return hooks, [item["rule"] for item in items if "rule" in item]
