"""Who spoke to whom: packets to pairs to pictures. Only `tcpdump` touches the system."""

from __future__ import annotations

from overlay.capture.pairs import Pair, Traffic, read_traffic, traffic_of
from overlay.capture.pcap import Packet, packets_with, read_packets
from overlay.capture.picture import matrix_svg
from overlay.capture.ports import Kind, Ports
from overlay.capture.tcpdump import Capture, Counts

__all__ = [
    "Capture",
    "Counts",
    "Kind",
    "Packet",
    "Pair",
    "Ports",
    "Traffic",
    "matrix_svg",
    "packets_with",
    "read_packets",
    "read_traffic",
    "traffic_of",
]
