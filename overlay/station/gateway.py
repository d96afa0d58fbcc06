"""The gateway: one idle container per station on the overlay, whose namespace forwards ports.

Its only process sleeps, without capabilities; the agent writes the rules from outside.
"""

from __future__ import annotations

import ctypes
import io
import os
import platform
import secrets
import socket
import struct
import tarfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import DockerException, NotFound

from overlay.drivers.command import run
from overlay.drivers.docker_engine import Engine
from overlay.errors import HostError, MissingRequirement

IMAGE = "v6-overlay/gateway:1"
LABEL = "org.v6-overlay.role"
# The type stubs hide the type of this argument.
RESTART: Any = {"Name": "unless-stopped"}
_TABLE = "ip v6_overlay_book"
_CLONE_NEWNET = 0x40000000
# Endless pause(2), and the same with ppoll(2) where there is no pause.
_SLEEP = {
    "x86_64": (62, bytes.fromhex("b822000000 0f05 ebf7")),
    "aarch64": (
        183,
        struct.pack(
            "<7I",
            *(0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800928, 0xD4000001, 0x17FFFFFA),
        ),
    ),
}


@dataclass(frozen=True)
class Forward:
    """Traffic from `sources` to the gateway's `port` goes on to `address`:`target`."""

    port: int
    address: str
    target: int
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Gateway:
    """The running gateway: its process id on the host and its overlay address."""

    pid: int
    address: str


def ensure(engine: Engine, name: str, network: str) -> Gateway:
    """The gateway container of this name on the overlay, made and started if need be."""
    try:
        try:
            container = engine.client.containers.get(name)
        except NotFound:
            _ensure_image(engine)
            container = engine.client.containers.create(
                IMAGE,
                name=name,
                network=network,
                labels={LABEL: "gateway"},
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                read_only=True,
                sysctls={"net.ipv4.ip_forward": "1"},
                stop_signal="SIGKILL",
                restart_policy=RESTART,
            )
        if container.status != "running":
            container.start()
        container.reload()
    except (DockerException, requests.RequestException) as error:
        raise HostError("the gateway container cannot be started", why=str(error)[:300]) from error
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    address = str(networks.get(network, {}).get("IPAddress") or "")
    if not address:
        raise HostError("the gateway container has no address on the overlay")
    return Gateway(int(container.attrs["State"]["Pid"]), address)


def remove(engine: Engine, name: str) -> None:
    """Remove the gateway container; an absent one is ignored."""
    try:
        engine.client.containers.get(name).remove(force=True)
    except NotFound:
        return
    except (DockerException, requests.RequestException) as error:
        raise HostError("the gateway container cannot be removed", why=str(error)[:300]) from error


def forward(gateway: Gateway, forwards: Iterable[Forward]) -> None:
    """Make these the gateway's only forwards; running connections of the kept ones go on."""
    namespace = f"--net=/proc/{gateway.pid}/ns/net"
    run(["nsenter", namespace, "nft", "-f", "-"], stdin=script(forwards))


def shield(pid: int, ports: Iterable[int], address: str) -> None:
    """Let a run's container be reached at these ports by the gateway's address only.

    Without it a container of another task could go round the gateway, over the flat overlay.
    """
    run(["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "-f", "-"], stdin=shielding(ports, address))


def shielding(ports: Iterable[int], address: str) -> str:
    """The nft script of a run's own namespace."""
    shown = ", ".join(str(port) for port in ports)
    return (
        f"add table {_TABLE}\ndelete table {_TABLE}\nadd table {_TABLE}\n"
        f"add chain {_TABLE} guard {{ type filter hook input priority 0; policy accept; }}\n"
        f'add rule {_TABLE} guard iifname != "lo" tcp dport {{ {shown} }} '
        f"ip saddr != {address} drop\n"
    )


def script(forwards: Iterable[Forward]) -> str:
    """The nft script that replaces the gateway's table in one transaction."""
    lines = [f"add table {_TABLE}", f"delete table {_TABLE}", f"add table {_TABLE}"]
    lines += [
        f"add chain {_TABLE} {name} {{ type {kind} hook {hook} priority {priority}; "
        f"policy {policy}; }}"
        for name, kind, hook, priority, policy in (
            ("in", "nat", "prerouting", -100, "accept"),
            ("pass", "filter", "forward", 0, "drop"),
            ("out", "nat", "postrouting", 100, "accept"),
        )
    ]
    lines += [
        f"add rule {_TABLE} pass ct status dnat accept",
        f"add rule {_TABLE} out ct status dnat masquerade",
    ]
    lines += [
        f"add rule {_TABLE} in ip saddr {{ {', '.join(item.sources)} }} "
        f"tcp dport {item.port} dnat to {item.address}:{item.target}"
        for item in forwards
        if item.sources
    ]
    return "\n".join(lines) + "\n"


def resolve(gateway: Gateway, name: str, timeout: float = 1.0) -> str:
    """A container's IPv4 address by its name on the overlay; "" while there is none such."""
    with _socket_inside(gateway.pid) as sock:
        sock.settimeout(timeout)
        number = secrets.token_bytes(2)
        labels = b"".join(
            bytes([len(label)]) + label for label in (part.encode() for part in name.split("."))
        )
        question = labels + b"\0\0\1\0\1"
        try:
            sock.sendto(number + b"\1\0\0\1\0\0\0\0\0\0" + question, ("127.0.0.11", 53))
            answer = sock.recv(2048)
        except OSError:
            return ""
    return address_in(answer, number, len(question))


def address_in(answer: bytes, number: bytes, question: int) -> str:
    """The first IPv4 address of a DNS answer; "" if it has none or is not understood.

    Args:
        answer: the datagram.
        number: the id of the query, 2 bytes.
        question: length of the question section, bytes.
    """
    if answer[:2] != number or len(answer) < 12:
        return ""
    (count,) = struct.unpack_from(">H", answer, 6)
    at = 12 + question
    try:
        for _ in range(count):
            while answer[at] not in (0,) and answer[at] < 0xC0:
                at += answer[at] + 1
            at += 1 if answer[at] == 0 else 2
            kind, _, _, size = struct.unpack_from(">HHIH", answer, at)
            at += 10
            if kind == 1 and size == 4:
                return socket.inet_ntoa(answer[at : at + 4])
            at += size
    except (IndexError, struct.error, OSError):
        return ""
    return ""


def _socket_inside(pid: int) -> socket.socket:
    """A UDP socket of another network namespace; a socket stays where it was made."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def make() -> None:  # a thread of its own: setns moves the thread that calls it
        try:
            handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
                made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            finally:
                os.close(handle)
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise HostError("the gateway's network cannot be entered", why=str(failed[0]))
    return made[0]


def _ensure_image(engine: Engine) -> None:
    if engine.client.images.list(name=IMAGE):
        return
    name, _, tag = IMAGE.partition(":")
    engine.client.api.import_image_from_data(
        image_tar(platform.machine()),
        repository=name,
        tag=tag,
        changes=['ENTRYPOINT ["/pause"]', f"LABEL {LABEL}=gateway"],
    )


def image_tar(machine: str) -> bytes:
    """A root file system of one file, /pause: a static program that sleeps."""
    if machine not in _SLEEP:
        raise MissingRequirement(
            f"the address book does not work on {machine}", next_step="address_book: false"
        )
    kind, code = _SLEEP[machine]
    base, start = 0x400000, 64 + 56
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, kind, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    size = start + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    program = header + segment + code
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("pause")
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()
