"""WireGuard: one interface, keys made here, and a dead end behind it when it is down.

The kernel's module is used where there is one, Debian's wireguard-go otherwise. The
configuration (never the key) is `config.json`; a boot and a restart configure from it alone.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import logging
import shutil
import socket
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from overlay.drivers import files, netlink
from overlay.drivers.wireguard_device import (
    Device,
    DevicePeer,
    KernelDevice,
    PeerChange,
    UserspaceDevice,
)
from overlay.errors import HostError, MissingRequirement

INTERFACE = "wg-v6o"
PORT = 51820
MTU = 1420
DIRECTORY = Path("/var/lib/v6-overlay/wireguard")
# A handshake is renewed every two minutes while there is traffic; keepalives make traffic.
ANSWERING_SECONDS = 180.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peer:
    """Another host of the mesh.

    Attributes:
        station: its name; "central" for the central host.
        public_key: its WireGuard key, base64.
        endpoint: "host:port" to reach it at, or "" to wait until it speaks first.
        address: its address inside WireGuard, without a prefix length.
    """

    station: str
    public_key: str
    endpoint: str
    address: str


@dataclass(frozen=True)
class Config:
    """This host's own part of the mesh; address is "10.0.0.1/16", the prefix being the subnet's."""

    backend: str
    address: str
    port: int = PORT
    peers: tuple[Peer, ...] = ()

    @property
    def subnet(self) -> str:
        """The WireGuard subnet as CIDR."""
        return str(ipaddress.ip_interface(self.address).network)

    @property
    def ip(self) -> str:
        """The host's own address without the prefix length."""
        return str(ipaddress.ip_interface(self.address).ip)


def backend() -> str:
    """How WireGuard can run here: "kernel" or "userspace".

    Raises:
        MissingRequirement: neither is possible, or this is not root.
    """
    if netlink.kernel_makes("wireguard"):
        return "kernel"
    if shutil.which("wireguard-go") is None:
        raise MissingRequirement(
            "WireGuard is not possible on this host",
            why="the kernel has no wireguard module and wireguard-go is not installed",
            next_step="apt-get install wireguard-go",
        )
    if not Path("/dev/net/tun").exists():
        raise MissingRequirement(
            "WireGuard is not possible on this host",
            why="the kernel has no wireguard module, and wireguard-go needs /dev/net/tun",
            next_step="modprobe tun",
        )
    return "userspace"


# --- keys and configuration ---------------------------------------------------------------------


def ensure_key(directory: Path = DIRECTORY) -> str:
    """Make the private key unless there is one, and return the public key, base64."""
    path = files.private_directory(directory) / "private.key"
    if not path.exists():
        raw = X25519PrivateKey.generate().private_bytes_raw()
        files.write(path, base64.b64encode(raw) + b"\n")
    public = X25519PrivateKey.from_private_bytes(_private_key(directory)).public_key()
    return base64.b64encode(public.public_bytes_raw()).decode()


def is_public_key(text: str) -> bool:
    """Whether a text is a WireGuard public key in its one base64 form: one key, one text."""
    try:
        raw = base64.b64decode(text, validate=True)
        X25519PublicKey.from_public_bytes(raw)
    except (binascii.Error, ValueError):
        return False
    return any(raw) and base64.b64encode(raw).decode() == text


def save(config: Config, directory: Path = DIRECTORY) -> None:
    """Write the configuration; it takes effect with `configure` or `set_peers`."""
    files.write_json(files.private_directory(directory) / "config.json", asdict(config))


def load(directory: Path = DIRECTORY) -> Config:
    """Read the configuration. Raises HostError when there is none."""
    value = files.read_json(directory / "config.json")
    try:
        peers = tuple(Peer(**peer) for peer in value["peers"])
        return Config(value["backend"], value["address"], int(value["port"]), peers)
    except (KeyError, TypeError, ValueError) as error:
        raise HostError(f"{directory / 'config.json'} is damaged", why=repr(error)) from error


def _private_key(directory: Path) -> bytes:
    try:
        return base64.b64decode((directory / "private.key").read_bytes())
    except (OSError, ValueError) as error:
        raise HostError("the WireGuard key cannot be read", why=str(error)) from error


# --- the interface ------------------------------------------------------------------------------


def bar(directory: Path = DIRECTORY) -> None:
    """Put an `unreachable` route for the subnet behind WireGuard's own.

    While the interface is up its own route wins; when it goes, packets end here and not on the
    default route. Routes are no part of a firewall, so a flush of all its rules leaves this one.
    """
    netlink.ensure_unreachable(load(directory).subnet)


def configure(directory: Path = DIRECTORY) -> None:
    """Bring the interface to the state of the configuration; a second call changes nothing.

    Raises:
        HostError: wireguard-go did not come up within 10 s, or the kernel refused.
    """
    config = load(directory)
    netlink.ensure_unreachable(config.subnet)
    if config.backend == "kernel":
        netlink.ensure_link(INTERFACE, "wireguard")
    device = _device(config)
    device.wait(10.0)
    device.set_identity(_private_key(directory), config.port)
    _apply_peers(device, config.peers)
    netlink.configure_link(INTERFACE, config.address, MTU)


def set_peers(peers: Iterable[Peer], directory: Path = DIRECTORY) -> None:
    """Make these the only peers, in the configuration and on the interface if it is up.

    Peers that stay keep their sessions; a peer that is left out is cut at its next packet.
    """
    config = load(directory)
    wanted = tuple(sorted(peers, key=lambda peer: peer.address))
    if wanted != config.peers:
        config = Config(config.backend, config.address, config.port, wanted)
        save(config, directory)
    if is_up():
        _apply_peers(_device(config), wanted)


def is_up() -> bool:
    """Whether the interface exists and is up."""
    return netlink.is_up(INTERFACE)


def status(directory: Path = DIRECTORY) -> list[DevicePeer]:
    """What the interface knows of its peers: last handshake, bytes, endpoint."""
    return _device(load(directory)).peers()


def remove(directory: Path = DIRECTORY) -> None:
    """Delete the interface (kernel); the unreachable route stays, so nothing leaves elsewhere."""
    if load(directory).backend == "kernel":
        netlink.delete_link(INTERFACE)


def _device(config: Config) -> Device:
    return KernelDevice(INTERFACE) if config.backend == "kernel" else UserspaceDevice(INTERFACE)


def _apply_peers(device: Device, wanted: Iterable[Peer]) -> None:
    """Remove what is not wanted, then add or correct what is, in one transaction if possible."""
    present = {peer.public_key: peer for peer in device.peers()}
    changes = []
    by_key = {peer.public_key: peer for peer in wanted}
    for key, peer in by_key.items():
        endpoint = _resolve(peer)
        old = present.get(key)
        # A peer that answers keeps the endpoint that it answers from: it may stand behind NAT.
        answering = old is not None and time.time() - old.handshake < ANSWERING_SECONDS
        if old is not None and (answering or endpoint is None or old.endpoint == endpoint):
            if old.allowed_ips == (f"{peer.address}/32",):
                continue
            endpoint = None
        changes.append(PeerChange(key, f"{peer.address}/32", endpoint))
    device.change_peers([key for key in present if key not in by_key], changes)


def _resolve(peer: Peer) -> tuple[str, int] | None:
    """A peer's endpoint as address and port; none when it has none or its name is unknown now."""
    if not peer.endpoint:
        return None
    host, _, port = peer.endpoint.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)
    except (OSError, ValueError) as error:
        log.warning("endpoint %s of %s is unknown: %s", peer.endpoint, peer.station, error)
        return None
    ipv4_first = sorted(found, key=lambda item: item[0] != socket.AF_INET)
    return str(ipv4_first[0][4][0]), int(port)
