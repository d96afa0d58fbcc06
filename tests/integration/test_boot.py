"""Boot: nothing of Swarm leaves a host whose WireGuard does not come up, and all comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from overlay.capture import Capture, Kind, Pair, read_traffic
from overlay.lab import Lab
from tests.integration.hosts import wait_nodes_online

pytestmark = pytest.mark.lab

HOST = "hospital-3"
SECONDS = 8
SERVER = """
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:7601/api/version", timeout=3).status)
"""
HEALTH = """
import ssl, urllib.request
context = ssl.create_default_context(cafile="/var/lib/v6-overlay/manager/manager-ca.pem")
url = "https://127.0.0.1:7602/api/overlay/health"
print(urllib.request.urlopen(url, context=context, timeout=3).status)
"""


@contextmanager
def broken_wireguard(lab: Lab) -> Iterator[None]:
    """A host on which wireguard-go cannot be started, as after a bad upgrade."""
    lab.exec(HOST, ["chmod", "a-x", "/usr/bin/wireguard-go"])
    try:
        yield
    finally:
        lab.exec(HOST, ["chmod", "a+x", "/usr/bin/wireguard-go"])
        lab.docker("restart", lab.container(HOST))
        wait_nodes_online(lab, [HOST])


def seen_plain(lab: Lab, path: Path, *words: str) -> tuple[Pair, ...]:
    """Restart something; what of Swarm's is then seen in clear on the outer network."""
    with Capture(lab.state.bridge, path):
        lab.docker(*words)
        time.sleep(SECONDS)
    return read_traffic(path, {}).select(kind=Kind.PLAIN_OVERLAY)


def test_a_boot_without_wireguard_leaks_nothing(lab: Lab, tmp_path: Path) -> None:
    container = lab.container(HOST)
    with broken_wireguard(lab):
        assert seen_plain(lab, tmp_path / "boot.pcap", "restart", container) == ()
        swarm = lab.exec(HOST, ["docker", "info", "--format", "{{.Swarm.LocalNodeState}}"])
        assert swarm.stdout.strip() != "inactive"  # the engine did try
        # With WireGuard's interface absent the route ends the way before the guard sees a packet.
        route = lab.exec(HOST, ["ip", "route", "show", "type", "unreachable"]).stdout
        assert route.strip()
        subnet = route.split()[1]

        # The agent and WireGuard's unit would put the barriers back, as they should.
        units = ["v6-overlay-station.socket", "v6-overlay-station", "v6-overlay-wireguard"]
        lab.exec(HOST, ["systemctl", "stop", *units])

        # The guard alone: the engine's packets now reach it, and it counts them.
        lab.exec(HOST, ["ip", "route", "del", "unreachable", subnet])
        restart = ["exec", container, "systemctl", "restart", "docker"]
        assert seen_plain(lab, tmp_path / "guard.pcap", *restart) == ()
        table = lab.exec(HOST, ["nft", "-j", "list", "table", "inet", "v6_overlay_guard"]).stdout
        assert dropped(table, "out-tcp") > 0

        # Twin: without both, the same capture sees the engine's packets.
        lab.exec(HOST, ["nft", "flush", "ruleset"])
        assert seen_plain(lab, tmp_path / "twin.pcap", *restart)


def dropped(table: str, name: str) -> int:
    rules = [item["rule"] for item in json.loads(table)["nftables"] if "rule" in item]
    rule = next(rule for rule in rules if rule.get("comment") == name)
    return next(int(part["counter"]["packets"]) for part in rule["expr"] if "counter" in part)


def test_the_central_host_comes_back_by_itself(lab: Lab) -> None:
    """Manager, Swarm and vantage6 server after a reboot, with nothing typed."""
    stations = [name for name in lab.state.hosts if name != "central"]
    lab.docker("restart", lab.container("central"))
    deadline = time.monotonic() + 60
    for check in (HEALTH, SERVER):
        while lab.exec("central", ["python3", "-c", check], check=False).stdout.strip() != "200":
            assert time.monotonic() < deadline
            time.sleep(0.5)
    wait_nodes_online(lab, stations)
    listing = lab.exec("central", ["docker", "network", "ls", "--format", "{{.Name}}"]).stdout
    assert f"v6-overlay-c{lab.state.collaboration_id}" in listing.split()
