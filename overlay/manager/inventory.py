"""The Ansible inventory that `init` writes: hosts and names, never a secret."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from overlay.drivers import files
from overlay.manager.settings import Settings


def text(settings: Settings, collaboration_id: int, stations: Sequence[str]) -> str:
    """The inventory as YAML: the central host and one host for each station."""
    hosts: dict[str, Any] = {name: {"v6_overlay_station": name} for name in stations}
    value = {
        "v6_overlay_server": {"hosts": {settings.address: {"ansible_connection": "local"}}},
        "v6_overlay_stations": {"hosts": hosts},
        "all": {
            "vars": {
                "v6_overlay_collaboration_id": collaboration_id,
                "v6_overlay_enrol_url": settings.enrol_url,
                "v6_overlay_vantage6_url": settings.vantage6_url,
            }
        },
    }
    return (
        "# Written by v6-overlay init; ansible_host may be added to each host.\n"
        + yaml.safe_dump(value, sort_keys=False)
    )


def is_written(path: Path, wanted: str) -> bool:
    """Whether the inventory names all that is wanted; an operator's additions are kept."""
    try:
        present = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        return False
    return _contains(present, yaml.safe_load(wanted))


def write(path: Path, wanted: str) -> None:
    """Write the inventory; what an operator added to a readable older one is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        present = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError):
        present = None
    if isinstance(present, dict):
        header = wanted.splitlines()[0]
        merged = yaml.safe_dump(_merge(present, yaml.safe_load(wanted)), sort_keys=False)
        wanted = f"{header}\n{merged}"
    files.write(path, wanted.encode(), 0o644)


def _contains(present: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(present, dict) and all(
            key in present and _contains(present[key], value) for key, value in wanted.items()
        )
    return bool(present == wanted)


def _merge(present: Any, wanted: Any) -> Any:
    if isinstance(present, dict) and isinstance(wanted, dict):
        return present | {key: _merge(present.get(key), value) for key, value in wanted.items()}
    return wanted
