"""A WireGuard device, in the kernel (netlink) or in user space (wireguard-go's UAPI socket)."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from overlay.errors import HostError

KEEPALIVE = 25
UAPI_DIRECTORY = Path("/var/run/wireguard")


@dataclass(frozen=True)
class DevicePeer:
    """What the device knows of a peer; handshake in Unix seconds (0: never), counts in bytes."""

    public_key: str
    endpoint: tuple[str, int] | None
    handshake: float
    received: int
    sent: int
    allowed_ips: tuple[str, ...]


@dataclass(frozen=True)
class PeerChange:
    """A peer to add or to correct; no endpoint leaves the device's own as it is."""

    public_key: str
    allowed_ip: str
    endpoint: tuple[str, int] | None


class Device(Protocol):
    """What both kinds of device can do; each raises HostError when it is refused."""

    def wait(self, seconds: float) -> None:
        """Wait until the device answers."""

    def set_identity(self, private_key: bytes, port: int) -> None:
        """Give the device its key (32 bytes) and its UDP port."""

    def peers(self) -> list[DevicePeer]:
        """All peers."""

    def change_peers(self, remove: Sequence[str], put: Sequence[PeerChange]) -> None:
        """Remove peers by public key, then add or correct others."""


class UserspaceDevice:
    """wireguard-go, through its Unix socket; every `set` is one transaction."""

    def __init__(self, interface: str) -> None:
        self.path = UAPI_DIRECTORY / f"{interface}.sock"

    def wait(self, seconds: float) -> None:
        """Wait until the socket answers."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self._ask(["get=1"])
                return
            except HostError:
                if time.monotonic() >= deadline:
                    raise
            time.sleep(0.02)

    def set_identity(self, private_key: bytes, port: int) -> None:
        """Give the device its key and port, unless it has them: a set key drops all sessions."""
        now = dict(self._ask(["get=1"]))
        if (now.get("private_key"), now.get("listen_port")) != (private_key.hex(), str(port)):
            self._ask(["set=1", f"private_key={private_key.hex()}", f"listen_port={port}"])

    def peers(self) -> list[DevicePeer]:
        """All peers."""
        blocks: list[dict[str, str]] = []
        for name, value in self._ask(["get=1"]):
            if name == "public_key":
                blocks.append({name: value})
            elif blocks and name == "allowed_ip":
                blocks[-1][name] = f"{blocks[-1].get(name, '')} {value}".strip()
            elif blocks:
                blocks[-1][name] = value
        return [
            DevicePeer(
                public_key=base64.b64encode(bytes.fromhex(block["public_key"])).decode(),
                endpoint=_endpoint(block.get("endpoint", "")),
                handshake=float(block.get("last_handshake_time_sec", 0)),
                received=int(block.get("rx_bytes", 0)),
                sent=int(block.get("tx_bytes", 0)),
                allowed_ips=tuple(block.get("allowed_ip", "").split()),
            )
            for block in blocks
        ]

    def change_peers(self, remove: Sequence[str], put: Sequence[PeerChange]) -> None:
        """Remove and put peers in one transaction."""
        lines = ["set=1"]
        for key in remove:
            lines += [f"public_key={base64.b64decode(key).hex()}", "remove=true"]
        for peer in put:
            lines.append(f"public_key={base64.b64decode(peer.public_key).hex()}")
            if peer.endpoint is not None:
                host, port = peer.endpoint
                lines.append(f"endpoint={f'[{host}]' if ':' in host else host}:{port}")
            lines += [f"persistent_keepalive_interval={KEEPALIVE}", "replace_allowed_ips=true"]
            lines.append(f"allowed_ip={peer.allowed_ip}")
        if len(lines) > 1:
            self._ask(lines)

    def _ask(self, lines: Sequence[str]) -> list[tuple[str, str]]:
        """One request and its answer; the request may hold the private key, so it is not shown."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self.path))
                connection.sendall(("\n".join(lines) + "\n\n").encode())
                answer = b""
                while not answer.endswith(b"\n\n"):
                    part = connection.recv(65536)
                    if not part:
                        break
                    answer += part
        except OSError as error:
            raise HostError("wireguard-go does not answer", why=f"{self.path}: {error}") from error
        pairs = [tuple(line.split("=", 1)) for line in answer.decode().split("\n") if "=" in line]
        result = [(pair[0], pair[1]) for pair in pairs]
        errno = dict(result).get("errno")
        if errno != "0":
            raise HostError("wireguard-go refused a configuration", why=f"errno {errno}")
        return result


class KernelDevice:
    """The kernel module, through generic netlink."""

    def __init__(self, interface: str) -> None:
        self.interface = interface

    def wait(self, seconds: float) -> None:
        """The kernel's device is there as soon as its link is."""

    def set_identity(self, private_key: bytes, port: int) -> None:
        """Give the device its key and port, unless it has them."""
        now = self._attributes()[0]
        key = base64.b64encode(private_key)
        if now.get("WGDEVICE_A_PRIVATE_KEY") != key or now.get("WGDEVICE_A_LISTEN_PORT") != port:
            self._set(private_key=key.decode(), listen_port=port)

    def peers(self) -> list[DevicePeer]:
        """All peers; a long list arrives in several messages."""
        found = []
        for message in self._attributes():
            for peer in message.get("WGDEVICE_A_PEERS") or []:
                endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
                handshake = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
                found.append(
                    DevicePeer(
                        public_key=peer.get_attr("WGPEER_A_PUBLIC_KEY").decode(),
                        endpoint=(endpoint["addr"], endpoint["port"]) if endpoint else None,
                        handshake=float(handshake["tv_sec"]) if handshake else 0.0,
                        received=peer.get_attr("WGPEER_A_RX_BYTES") or 0,
                        sent=peer.get_attr("WGPEER_A_TX_BYTES") or 0,
                        allowed_ips=tuple(
                            ip["addr"] for ip in peer.get_attr("WGPEER_A_ALLOWEDIPS") or []
                        ),
                    )
                )
        return found

    def change_peers(self, remove: Sequence[str], put: Sequence[PeerChange]) -> None:
        """Removals go first, so that no address belongs to two peers on the way."""
        for key in remove:
            self._set(peer={"public_key": key, "remove": True})
        for change in put:
            peer: dict[str, Any] = {
                "public_key": change.public_key,
                "persistent_keepalive": KEEPALIVE,
                "replace_allowed_ips": True,
                "allowed_ips": [change.allowed_ip],
            }
            if change.endpoint is not None:
                peer["endpoint_addr"], peer["endpoint_port"] = change.endpoint
            self._set(peer=peer)

    def _set(self, **values: Any) -> None:
        from pyroute2 import WireGuard

        try:
            with WireGuard() as device:
                device.set(self.interface, **values)
        except Exception as error:  # pyroute2 raises errors of several unrelated kinds
            raise HostError(
                "the kernel refused a WireGuard configuration", why=str(error)
            ) from error

    def _attributes(self) -> list[dict[str, Any]]:
        from pyroute2 import WireGuard

        try:
            with WireGuard() as device:
                return [dict(message["attrs"]) for message in device.info(self.interface)]
        except Exception as error:  # as above
            raise HostError(
                "the kernel does not show the WireGuard device", why=str(error)
            ) from error


def _endpoint(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    return (host.strip("[]"), int(port)) if host else None
