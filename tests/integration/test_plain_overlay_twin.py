"""A plain overlay on the same bridge is seen by the same capture code that saw none of ours."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overlay.capture import Capture, Kind, packets_with, read_packets, read_traffic
from overlay.lab import Lab

pytestmark = pytest.mark.lab

HOSTS = ("v6ot-a", "v6ot-b")
MARKER = b"a marker that nobody else sends"
RECEIVE = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("198.51.100.2", 9000)); s.settimeout(10)
print("bound", flush=True)
sys.stdout.buffer.write(s.recv(2000))
"""
SEND = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(sys.stdin.buffer.read(), ("198.51.100.2", 9000))
"""


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=not check)


@pytest.fixture
def plain_overlay(lab: Lab) -> Iterator[dict[str, str]]:
    """Two hosts on the lab's bridge with a VXLAN between them and no WireGuard; their addresses."""
    network = ipaddress.ip_network(lab.state.subnet)
    outer = [str(network[-3]), str(network[-4])]
    try:
        for number, (host, address) in enumerate(zip(HOSTS, outer, strict=True)):
            ip("netns", "add", host)
            ip("link", "add", f"{host}0", "type", "veth", "peer", "outer", "netns", host)
            ip("link", "set", f"{host}0", "master", lab.state.bridge, "up")
            ip("-n", host, "link", "set", "outer", "up")
            ip("-n", host, "address", "add", f"{address}/{network.prefixlen}", "dev", "outer")
            ip("-n", host, "link", "add", "plain", "type", "vxlan", "id", "4097",
               "dstport", "4789", "local", address, "remote", outer[1 - number],
               "dev", "outer")  # fmt: skip
            ip("-n", host, "address", "add", f"198.51.100.{number + 1}/24", "dev", "plain")
            ip("-n", host, "link", "set", "plain", "up")
        yield dict(zip(outer, HOSTS, strict=True))
    finally:
        for host in HOSTS:
            ip("link", "del", f"{host}0", check=False)
            ip("netns", "del", host, check=False)


def send_marker() -> bytes:
    inside = ["ip", "netns", "exec"]
    receiver = subprocess.Popen(
        [*inside, HOSTS[1], sys.executable, "-c", RECEIVE], stdout=subprocess.PIPE
    )
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == b"bound\n"
    subprocess.run([*inside, HOSTS[0], sys.executable, "-c", SEND], input=MARKER, check=True)
    return receiver.communicate(timeout=15)[0]


def test_a_plain_overlay_is_seen(lab: Lab, plain_overlay: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "plain.pcap"
    with Capture(lab.state.bridge, path) as capture:
        assert send_marker() == MARKER
    assert capture.counts is not None
    assert capture.counts.dropped == 0
    traffic = read_traffic(path, plain_overlay)
    (pair,) = traffic.select([HOSTS[0]], [HOSTS[1]], Kind.PLAIN_OVERLAY)
    assert pair.packets >= 1
    assert traffic.packets_of(Kind.PLAIN_OVERLAY) >= 1


def test_its_content_is_readable_there(
    lab: Lab, plain_overlay: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "whole.pcap"
    with Capture(lab.state.bridge, path, snaplen=2048):
        assert send_marker() == MARKER
    assert len(list(packets_with(read_packets(path), MARKER))) == 1
