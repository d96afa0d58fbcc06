"""Packets to pairs: what is named, what is classified, what is refused."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.capture import (
    Kind,
    Packet,
    Ports,
    packets_with,
    read_packets,
    read_traffic,
    traffic_of,
)
from overlay.capture.tcpdump import parse_counts
from overlay.errors import CaptureFailed, OverlayError

NAMES = {"10.0.0.1": "central", "10.0.0.2": "hospital-1", "10.0.0.3": "hospital-2"}
WIREGUARD = b"\x04\0\0\0\x01\x02\x03\x04"
VXLAN = b"\x08\0\0\0\0\x10\x01\0"


def ipv4(src: str, dst: str, protocol: int, body: bytes, fragment: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 7, fragment, 64, protocol, 0,
        socket.inet_aton(src), socket.inet_aton(dst),
    )  # fmt: skip
    return head + body


def udp(sport: int, dport: int, payload: bytes, checksum: int = 0) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), checksum) + payload


def tcp(sport: int, dport: int, sequence: int = 0) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, dport, sequence, 0, 0x50, 2, 0, 0, 0)


def pcap(frames: list[bytes], order: str = "<", magic: int = 0xA1B2C3D4, link: int = 1) -> bytes:
    out = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 128, link)
    for number, frame in enumerate(frames):
        out += struct.pack(order + "IIII", 1000 + number, 5, len(frame), len(frame) + 100) + frame
    return out


def ethernet(packet: bytes, kind: bytes = b"\x08\x00") -> bytes:
    return b"\x02" * 12 + kind + packet


def one(packet: bytes) -> Kind:
    (pair,) = traffic_of([Packet(0.0, len(packet), packet)], NAMES).pairs
    return pair.kind


@pytest.mark.parametrize(
    ("packet", "kind"),
    [
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(51820, 51820, WIREGUARD)), Kind.WIREGUARD),
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(40000, 4789, VXLAN)), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(40000, 4790, VXLAN)), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(51820, 51820, VXLAN)), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(7946, 7946, b"gossip..")), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.1", 6, tcp(40000, 2377)), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.1", 6, tcp(40000, 7946)), Kind.PLAIN_OVERLAY),
        (ipv4("10.0.0.2", "10.0.0.1", 6, tcp(40000, 7601)), Kind.SERVER),
        (ipv4("10.0.0.1", "10.0.0.2", 6, tcp(7443, 40000)), Kind.SERVER),
        (ipv4("10.0.0.2", "10.0.0.3", 17, udp(51820, 51820, b"not wireguard")), Kind.OTHER),
        (ipv4("10.0.0.2", "10.0.0.1", 6, tcp(40000, 5000)), Kind.OTHER),
        (ipv4("10.0.0.2", "10.0.0.1", 1, b"\x08\x00" + b"\0" * 20), Kind.OTHER),
        (ipv4("10.0.0.2", "10.0.0.1", 17, VXLAN * 4, fragment=185), Kind.OTHER),
    ],
)
def test_a_packet_is_named_by_ports_and_first_bytes(packet: bytes, kind: Kind) -> None:
    assert one(packet) is kind


def test_another_deployments_ports_are_followed() -> None:
    packet = ipv4("10.0.0.2", "10.0.0.3", 17, udp(9, 9999, WIREGUARD))
    traffic = traffic_of([Packet(0.0, 60, packet)], NAMES, Ports(wireguard=9999))
    assert traffic.packets_of(Kind.WIREGUARD) == 1


def test_pairs_add_up_and_unknown_hosts_keep_their_address(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    there = ipv4("10.0.0.2", "10.0.0.3", 17, udp(51820, 51820, WIREGUARD))
    back = ipv4("10.0.0.3", "10.0.0.2", 17, udp(51820, 51820, WIREGUARD, checksum=77))
    strange = ipv4("192.0.2.9", "10.0.0.1", 6, tcp(1, 7601))
    tagged = b"\x02" * 12 + b"\x81\x00\x00\x05\x08\x00" + there
    arp = ethernet(b"\0" * 28, b"\x08\x06")
    path.write_bytes(pcap([ethernet(p) for p in (there, there, back, strange)] + [tagged, arp]))
    traffic = read_traffic(path, NAMES)
    size = len(ethernet(there)) + 100
    assert traffic.by_hosts()["hospital-1", "hospital-2"] == (3 * size + 4, 3)
    assert traffic.bytes_between("hospital-1", "hospital-2", Kind.WIREGUARD) == 4 * size + 4
    assert traffic.select(src=["192.0.2.9"])[0].dst == "central"
    assert traffic.non_ip_packets == 1
    assert traffic.seconds == 5.0
    assert sum(pair.packets for pair in traffic.pairs) + traffic.non_ip_packets == 6


def test_ipv6_is_counted() -> None:
    hosts = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(
        socket.AF_INET6, "fe80::2"
    )
    packet = b"\x60\0\0\0\0\x10\x11\x40" + hosts + udp(4000, 4789, VXLAN)
    (pair,) = traffic_of([Packet(0.0, 80, packet)], {"fe80::1": "one"}).pairs
    assert (pair.src, pair.dst, pair.kind) == ("one", "fe80::2", Kind.PLAIN_OVERLAY)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(0xA1B2C3D4, 1e-6), (0xA1B23C4D, 1e-9)])
def test_both_byte_orders_and_both_clocks(
    tmp_path: Path, order: str, magic: int, unit: float
) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(pcap([ipv4("10.0.0.2", "10.0.0.3", 1, b"x" * 8)], order, magic, link=101))
    (packet,) = read_packets(path)
    assert packet.time == 1000 + 5 * unit
    assert packet.data[-8:] == b"x" * 8


def test_a_marker_is_found_where_it_is_and_only_there(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    plain = ipv4("10.0.0.2", "10.0.0.3", 17, udp(40000, 4789, VXLAN + b"--marker--"))
    sealed = ipv4("10.0.0.2", "10.0.0.3", 17, udp(51820, 51820, WIREGUARD + b"q" * 10))
    path.write_bytes(pcap([ethernet(sealed), ethernet(plain)]))
    assert [packet.time for packet in packets_with(read_packets(path), b"marker")] == [
        pytest.approx(1001.000005)
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"\x0a\x0d\x0d\x0a" + b"\0" * 40, pcap([], link=113), pcap([b"x" * 60])[:-1],
     pcap([])[:24] + b"\0" * 9],
)  # fmt: skip
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureFailed):
        list(read_packets(path))
    with pytest.raises(CaptureFailed):
        list(read_packets(tmp_path / "absent.pcap"))


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_named_errors(content: bytes) -> None:
    traffic_of([Packet(0.0, 60, content)], NAMES)
    path = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / "v6-overlay-fuzz.pcap"
    path.write_bytes(pcap([]) + content)
    try:
        list(read_packets(path))
    except OverlayError:
        pass
    finally:
        path.unlink()


def test_38_000_packets_take_less_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "c.pcap"
    frames = [
        ethernet(ipv4("10.0.0.2", f"10.0.{n % 200}.3", 17, udp(51820, 51820, WIREGUARD * 8, n)))
        for n in range(1000)
    ]
    body = pcap(frames)
    path.write_bytes(body + body[24:] * 37)
    started = time.perf_counter()
    traffic = read_traffic(path, NAMES)
    assert time.perf_counter() - started < 1.0
    assert traffic.packets_of(Kind.WIREGUARD) == 38_000


def test_tcpdumps_losses_are_read() -> None:
    counts = parse_counts(
        "tcpdump: listening on br0\n120 packets captured\n150 packets received by filter\n"
        "20 packets dropped by kernel\n1 packet dropped by interface\n"
    )
    assert (counts.captured, counts.dropped, counts.unread) == (120, 21, 9)
    with pytest.raises(CaptureFailed):
        parse_counts("tcpdump: br0: No such device exists\n")
