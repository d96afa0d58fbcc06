"""WireGuard and the guard between two real network namespaces; needs root, not Docker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

SUBNET = "10.213.0.0/16"
# One ICMP echo; ends with status 0 when the answer comes within 2 s.
PING = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
s.settimeout(2)
s.sendto(bytes([8, 0, 0xF7, 0xFD, 0, 1, 0, 1]), (sys.argv[1], 0))
end = time.monotonic() + 2
while time.monotonic() < end:
    packet, source = s.recvfrom(2000)
    if source[0] == sys.argv[1] and packet[20] == 0:
        sys.exit(0)
sys.exit(1)
"""


class Host:
    """A network namespace with a WireGuard socket directory of its own."""

    def __init__(self, name: str, outer: str, inner: str, directory: Path) -> None:
        self.name, self.outer, self.inner = name, outer, inner
        self.state = directory / name
        self.sockets = directory / f"{name}-sockets"
        self.sockets.mkdir()
        self.daemon: subprocess.Popen[bytes] | None = None

    def argv(self, *argv: str) -> list[str]:
        mount = 'mkdir -p /var/run/wireguard; mount --bind "$0" /var/run/wireguard; exec "$@"'
        return ["ip", "netns", "exec", self.name, "sh", "-c", mount, str(self.sockets), *argv]

    def sh(self, *argv: str, check: bool = True) -> str:
        done = subprocess.run(self.argv(*argv), capture_output=True, text=True, timeout=30)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def python(self, code: str) -> object:
        head = (
            "import json; from pathlib import Path; "
            "from overlay.drivers import guard, netlink, wireguard as wg; "
            f"d = Path({str(self.state)!r})\n"
        )
        out = self.sh(sys.executable, "-c", head + code)
        return json.loads(out) if out.strip() else None

    def start_daemon(self) -> None:
        argv = self.argv("wireguard-go", "-f", "wg-v6o")
        self.daemon = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        self.python("wg.configure(d)")

    def stop_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            self.daemon.wait(10)
            self.daemon = None

    def pings(self, address: str) -> bool:
        argv = self.argv(sys.executable, "-c", PING, address)
        return subprocess.run(argv, capture_output=True).returncode == 0


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True)


@pytest.fixture
def pair(tmp_path):
    tag = f"v6o{os.getpid() % 100000}"
    hosts = [
        Host(f"{tag}a", "192.168.199.1", "10.213.0.1", tmp_path),
        Host(f"{tag}b", "192.168.199.2", "10.213.0.2", tmp_path),
    ]
    try:
        for host in hosts:
            ip("netns", "add", host.name)
        ends = [hosts[0].name, "type", "veth", "peer", "name", "outer", "netns", hosts[1].name]
        ip("link", "add", "outer", "netns", *ends)
        for host in hosts:
            host.sh("ip", "address", "add", f"{host.outer}/24", "dev", "outer")
            host.sh("ip", "link", "set", "outer", "up")
            host.sh("ip", "link", "set", "lo", "up")
            host.sh("ip", "route", "add", "default", "dev", "outer")
            host.python(
                f"wg.save(wg.Config('userspace', '{host.inner}/16'), d); wg.bar(d)\n"
                f"guard.install('{SUBNET}')"
            )
        keys = [host.python("print(json.dumps(wg.ensure_key(d)))") for host in hosts]
        for host, other, key in zip(hosts, hosts[::-1], keys[::-1], strict=True):
            peer = f"wg.Peer('{other.name}', '{key}', '{other.outer}:51820', '{other.inner}')"
            host.python(f"wg.set_peers([{peer}], d)")
            host.start_daemon()
        yield hosts
    finally:
        for host in hosts:
            host.stop_daemon()
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", host.name)


def send(host: Host, address: str, port: int) -> None:
    code = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"try: s.sendto(b'marker', ('{address}', {port}))\nexcept OSError: pass"
    )
    host.sh(sys.executable, "-c", code)


def outer_packets(host: Host) -> int:
    """Packets to Swarm's ports that reached the other side of the wire, before any firewall."""
    listing = host.sh("nft", "-j", "list", "table", "netdev", "seen")
    rules = [item["rule"] for item in json.loads(listing)["nftables"] if "rule" in item]
    return sum(p["counter"]["packets"] for rule in rules for p in rule["expr"] if "counter" in p)


def watch(host: Host) -> None:
    chain = "{ type filter hook ingress device outer priority 0; }"
    rule = "udp dport { 4789, 7946 } counter"
    for line in ("add table netdev seen", f"add chain netdev seen in {chain}"):
        host.sh("nft", line)
    host.sh("nft", f"add rule netdev seen in {rule}")


def test_mesh_guard_and_dead_end(pair):
    one, two = pair
    assert one.pings(two.inner)
    status = one.python(
        "print(json.dumps([[p.public_key, p.handshake, p.allowed_ips] for p in wg.status(d)]))"
    )
    assert len(status) == 1
    assert time.time() - status[0][1] < 60
    assert status[0][2] == [f"{two.inner}/32"]

    # A second configuration changes nothing: the session stays, no new handshake is made.
    one.python("wg.configure(d); wg.bar(d)")
    again = one.python("print(json.dumps([p.handshake for p in wg.status(d)]))")
    assert again == [status[0][1]]
    assert one.pings(two.inner)

    # The guard drops what would go outside and nothing that goes inside.
    watch(two)
    assert one.python(f"print(json.dumps(guard.check('{SUBNET}')))") == []
    send(one, two.outer, 4789)
    send(one, two.inner, 4789)
    assert outer_packets(two) == 0
    assert one.python("print(json.dumps(guard.counters()))")["out-udp"] == 1

    # With WireGuard gone and the firewall flushed the route alone still holds.
    one.sh("nft", "flush", "ruleset")
    assert "out-udp" in one.python(f"print(json.dumps(guard.check('{SUBNET}')))")
    one.stop_daemon()
    send(one, two.inner, 4789)
    assert outer_packets(two) == 0

    # Twin: with both barriers away the same packet is seen, so the watch can see.
    one.python(f"netlink.remove_unreachable('{SUBNET}')")
    send(one, two.inner, 4789)
    deadline = time.monotonic() + 5
    while outer_packets(two) == 0 and time.monotonic() < deadline:
        one.sh("ip", "neigh", "replace", two.inner, "lladdr", mac(two), "dev", "outer")
        send(one, two.inner, 4789)
    assert outer_packets(two) > 0


def mac(host: Host) -> str:
    return json.loads(host.sh("ip", "-j", "link", "show", "outer"))[0]["address"]


def test_removed_peer_is_cut_and_restart_recovers(pair):
    one, two = pair
    assert one.pings(two.inner)
    two.python("wg.set_peers([], d)")
    assert not one.pings(two.inner)
    key = one.python("print(json.dumps(wg.ensure_key(d)))")
    two.python(f"wg.set_peers([wg.Peer('x', '{key}', '{one.outer}:51820', '{one.inner}')], d)")
    two.stop_daemon()
    two.start_daemon()
    assert two.pings(one.inner)


def test_containers_do_not_reach_the_hosts_wireguard_address(pair):
    one, _ = pair
    one.sh("ip", "link", "add", "br-test", "type", "bridge")
    # A packet for the host's WireGuard address that comes in anywhere else is dropped.
    two = pair[1]
    two.sh("ip", "route", "add", "10.213.0.1/32", "via", one.outer)
    assert not two.pings(one.inner)
    assert one.python("print(json.dumps(guard.counters()))")["in-address"] >= 1


def test_guard_removed_leaves_nothing(pair):
    one, _ = pair
    one.python("guard.remove(); guard.remove()")
    assert "v6_overlay" not in one.sh("nft", "list", "ruleset")
