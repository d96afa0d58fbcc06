"""What `init` decided for the central host, and where its files are; nothing here is secret."""

from __future__ import annotations

import ipaddress
from dataclasses import asdict, dataclass
from pathlib import Path

from overlay.drivers import files
from overlay.errors import HostError, UsageError

DIRECTORY = Path("/var/lib/v6-overlay/manager")
SOCKET = Path("/run/v6-overlay/manager.sock")
TLS_PORT = 7602
AGENT_PORT = 7603


@dataclass(frozen=True)
class Settings:
    """The central host's settings.

    Attributes:
        address: name or address at which stations reach this host.
        vantage6_url: the server's API, asked who a caller of the own TLS port is.
        enrol_url: what join commands name: the server with the plug-in, or the own TLS port.
        wireguard_subnet: CIDR; this host has its first address.
        swarm_pool: CIDR for networks that Swarm makes on its own account.
    """

    address: str
    vantage6_url: str
    enrol_url: str
    wireguard_subnet: str
    swarm_pool: str

    @property
    def wireguard_ip(self) -> str:
        """This host's address inside WireGuard."""
        return str(next(ipaddress.ip_network(self.wireguard_subnet).hosts()))

    @property
    def prefix(self) -> int:
        """The prefix length of the WireGuard subnet."""
        return ipaddress.ip_network(self.wireguard_subnet).prefixlen

    @property
    def agent_url(self) -> str:
        """Where station agents ask for the state, inside WireGuard."""
        return f"https://{self.wireguard_ip}:{AGENT_PORT}"


def load(directory: Path = DIRECTORY) -> Settings:
    """Read the settings. Raises UsageError before `init` and HostError when damaged."""
    path = directory / "config.json"
    if not path.exists():
        raise UsageError(
            "this host is not a v6-overlay manager", next_step="run v6-overlay init first"
        )
    try:
        return Settings(**files.read_json(path))
    except TypeError as error:
        raise HostError(f"{path} is damaged", why=str(error)) from error


def save(settings: Settings, directory: Path = DIRECTORY) -> None:
    """Write the settings."""
    files.write_json(files.private_directory(directory) / "config.json", asdict(settings))
