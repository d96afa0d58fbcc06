"""What `init` was asked for, and what it chooses for the rest; what was chosen before stays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from overlay.drivers import netlink
from overlay.drivers.docker_engine import Engine
from overlay.errors import UsageError
from overlay.manager import settings, subnets
from overlay.manager.registry import Registry
from overlay.manager.settings import Settings


@dataclass(frozen=True)
class Request:
    """What the operator asked for; an empty text means: choose, or keep what was chosen before."""

    collaboration_id: int
    collaboration_name: str
    address: str
    vantage6_url: str
    stations: tuple[str, ...]
    enrol_url: str = ""
    wireguard_subnet: str = ""
    overlay_subnet: str = ""
    inventory: Path = Path("/etc/v6-overlay/inventory.yml")


def choose(request: Request, engine: Engine, directory: Path) -> tuple[Settings, str]:
    """The settings as they will be, and the overlay's subnet; what was chosen before stays."""
    used = netlink.subnets_in_use() + engine.subnets()
    enrol_url = request.enrol_url or f"https://{request.address}:{settings.TLS_PORT}"
    if (directory / "config.json").exists():
        old = settings.load(directory)
        if request.wireguard_subnet and request.wireguard_subnet != old.wireguard_subnet:
            raise UsageError(
                "the WireGuard subnet cannot be changed once stations may have joined",
                why=f"it is {old.wireguard_subnet}",
            )
        wanted = replace(
            old,
            address=request.address,
            vantage6_url=request.vantage6_url,
            enrol_url=enrol_url,
        )
        own = {old.wireguard_subnet, old.swarm_pool}
        used = [item for item in used if item not in own] + sorted(own)
    else:
        mesh = request.wireguard_subnet
        mesh = (
            subnets.check("--wireguard-subnet", mesh, used, 29)
            if mesh
            else subnets.choose(16, used)
        )
        pool = subnets.choose(20, [*used, mesh])
        wanted = Settings(request.address, request.vantage6_url, enrol_url, mesh, pool)
        used = [*used, mesh, pool]
    overlay = request.overlay_subnet
    known = _known_overlay(request.collaboration_id, directory)
    if known:
        if overlay and overlay != known:
            raise UsageError("the overlay's subnet cannot be changed", why=f"it is {known}")
        return wanted, known
    overlay = (
        subnets.check("--overlay-subnet", overlay, used, 26)
        if overlay
        else subnets.choose(20, used)
    )
    return wanted, overlay


def _known_overlay(collaboration_id: int, directory: Path) -> str:
    path = directory / "registry.sqlite"
    if not path.exists():
        return ""
    registry = Registry(path)
    try:
        found = registry.collaboration(collaboration_id)
    finally:
        registry.close()
    return found.subnet if found else ""
