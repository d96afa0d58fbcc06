"""Every captured packet is counted once: in a pair of named hosts, or as `non_ip`."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from overlay.capture.pcap import Packet, read_packets
from overlay.capture.ports import TCP, UDP, Kind, Ports

_MOST_CACHED_FLOWS = 65_536


@dataclass(frozen=True)
class Pair:
    """What one host sent to another, of one kind.

    Attributes:
        src: name of the sender, or its address where the map has no name.
        dst: name of the receiver, or its address.
        kind: what the packets are.
        packets: how many were seen. A network card that segments may show several as one.
        bytes: their length on the wire, link headers included.
    """

    src: str
    dst: str
    kind: Kind
    packets: int
    bytes: int


@dataclass(frozen=True)
class Traffic:
    """One capture, summed up.

    Attributes:
        pairs: sorted by sender, receiver and kind.
        non_ip_packets: frames without IP, ARP mostly; they are in no pair.
        seconds: from the first packet to the last.
    """

    pairs: tuple[Pair, ...] = ()
    non_ip_packets: int = 0
    seconds: float = 0.0

    def select(
        self,
        src: Iterable[str] | None = None,
        dst: Iterable[str] | None = None,
        kind: Kind | None = None,
    ) -> tuple[Pair, ...]:
        """The pairs that match; ``None`` means any."""
        senders = None if src is None else frozenset(src)
        receivers = None if dst is None else frozenset(dst)
        return tuple(
            pair
            for pair in self.pairs
            if (senders is None or pair.src in senders)
            and (receivers is None or pair.dst in receivers)
            and (kind is None or pair.kind is kind)
        )

    def bytes_between(self, one: str, other: str, kind: Kind | None = None) -> int:
        """Bytes that two hosts sent each other, both ways."""
        both = self.select([one], [other], kind) + self.select([other], [one], kind)
        return sum(pair.bytes for pair in both)

    def packets_of(self, kind: Kind) -> int:
        """Packets of one kind between any hosts."""
        return sum(pair.packets for pair in self.select(kind=kind))

    def by_hosts(self) -> dict[tuple[str, str], tuple[int, int]]:
        """(sender, receiver) -> (bytes, packets), all kinds together."""
        totals: dict[tuple[str, str], tuple[int, int]] = {}
        for pair in self.pairs:
            octets, packets = totals.get((pair.src, pair.dst), (0, 0))
            totals[pair.src, pair.dst] = (octets + pair.bytes, packets + pair.packets)
        return totals


def read_traffic(path: Path, names: Mapping[str, str], ports: Ports | None = None) -> Traffic:
    """Sum up a capture file; ``names`` maps addresses to host names.

    Raises:
        CaptureFailed: the file cannot be read; see `read_packets`.
    """
    return traffic_of(read_packets(path), names, ports)


def traffic_of(
    packets: Iterable[Packet], names: Mapping[str, str], ports: Ports | None = None
) -> Traffic:
    """Sum up a stream of packets in memory that does not grow with its length."""
    tally = _Tally(names, ports or Ports())
    non_ip = 0
    first = last = None
    for time, length, data in packets:
        if first is None:
            first = time
        last = time
        counter = tally.counter(data)
        if counter is None:
            non_ip += 1
        else:
            counter[0] += 1
            counter[1] += length
    pairs = (
        Pair(src, dst, kind, packets=counter[0], bytes=counter[1])
        for (src, dst, kind), counter in tally.counters.items()
    )
    ordered = tuple(sorted(pairs, key=lambda pair: (pair.src, pair.dst, pair.kind.value)))
    return Traffic(ordered, non_ip, (last - first) if first is not None and last else 0.0)


@dataclass
class _Tally:
    """Finds the counter of a packet; flows that were met before cost one dictionary look-up."""

    names: Mapping[str, str]
    ports: Ports
    counters: dict[tuple[str, str, Kind], list[int]] = field(default_factory=dict)
    flows: dict[bytes, list[int]] = field(default_factory=dict)

    def counter(self, data: bytes) -> list[int] | None:
        """[packets, bytes] of the packet's pair and kind, or None where it is no IP."""
        version = data[0] >> 4 if data else 0
        if version == 4 and len(data) >= 20:
            protocol, hosts, body = data[9], data[12:20], (data[0] & 15) * 4
            if data[6] & 0x1F or data[7]:
                body = len(data)  # a later fragment has an offset there, and no ports
        elif version == 6 and len(data) >= 40:
            protocol, hosts, body = data[6], data[8:40], 40
        else:
            return None
        ends = start = b""
        if protocol in (TCP, UDP):
            ends = data[body : body + 4]
            if protocol == UDP:
                start = data[body + 8 : body + 16]
        key = hosts + ends + start + bytes((protocol,))
        counter = self.flows.get(key)
        if counter is None:
            if len(self.flows) >= _MOST_CACHED_FLOWS:
                self.flows.clear()
            counter = self.flows[key] = self._new(protocol, hosts, ends, start)
        return counter

    def _new(self, protocol: int, hosts: bytes, ends: bytes, start: bytes) -> list[int]:
        size = len(hosts) // 2
        family = socket.AF_INET if size == 4 else socket.AF_INET6
        src = socket.inet_ntop(family, hosts[:size])
        dst = socket.inet_ntop(family, hosts[size:])
        kind = self.ports.kind(
            protocol, int.from_bytes(ends[:2], "big"), int.from_bytes(ends[2:], "big"), start
        )
        return self.counters.setdefault(
            (self.names.get(src, src), self.names.get(dst, dst), kind), [0, 0]
        )
