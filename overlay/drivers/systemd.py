"""Units: the guard stands before WireGuard, WireGuard before Docker, and both at every boot.

The texts are made here so that hosts set up by hand and by playbook are the same.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from overlay.drivers import files
from overlay.drivers.command import run
from overlay.drivers.wireguard import INTERFACE
from overlay.errors import HostError, MissingRequirement

UNIT_DIRECTORY = Path("/etc/systemd/system")
GUARD = "v6-overlay-guard.service"
WIREGUARD = "v6-overlay-wireguard.service"
MANAGER = "v6-overlay-manager.service"
STATION = "v6-overlay-station.service"
STATION_SOCKET = "v6-overlay-station.socket"

# nftables.service and firewalld flush or reload when they start: the guard comes after them.
# StartLimitIntervalSec=0: a fault that lasts longer than five restarts is still tried again.
_GUARD = """\
[Unit]
Description=v6-overlay guard: nothing of Swarm leaves this host outside WireGuard
After=nftables.service firewalld.service
Before=network-online.target docker.service v6-overlay-wireguard.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} service guard install

[Install]
WantedBy=multi-user.target
"""

_WIREGUARD_USERSPACE = """\
[Unit]
Description=v6-overlay WireGuard interface (user space)
Wants=v6-overlay-guard.service
After=v6-overlay-guard.service network.target
Before=docker.service
StartLimitIntervalSec=0

[Service]
ExecStart={wireguard_go} -f {interface}
ExecStartPost={program} service wireguard configure
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

_WIREGUARD_KERNEL = """\
[Unit]
Description=v6-overlay WireGuard interface
Wants=v6-overlay-guard.service
After=v6-overlay-guard.service network.target
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={program} service wireguard configure
ExecStop={program} service wireguard remove

[Install]
WantedBy=multi-user.target
"""

_MANAGER = """\
[Unit]
Description=v6-overlay manager: admits stations and keeps the overlay networks
Wants=v6-overlay-wireguard.service
After=docker.service v6-overlay-wireguard.service network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={program} service manager
Restart=always
RestartSec=1
RuntimeDirectory=v6-overlay
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
"""

_STATION_SOCKET = """\
[Unit]
Description=v6-overlay station: the Docker socket that the vantage6 node uses

[Socket]
ListenStream=/run/v6-overlay/proxy/docker.sock
SocketMode=0660
DirectoryMode=0755

[Install]
WantedBy=sockets.target
"""

_STATION = """\
[Unit]
Description=v6-overlay station agent
Requires=v6-overlay-station.socket
Wants=v6-overlay-wireguard.service
After=v6-overlay-station.socket v6-overlay-wireguard.service docker.service
StartLimitIntervalSec=0

[Service]
ExecStart={program} service station
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
"""


def program() -> str:
    """The absolute path of the running v6-overlay program, for the units."""
    path = Path(sys.argv[0])
    if path.name == "v6-overlay" and path.is_file():
        return str(path.resolve())  # by whatever link it was called, the units stay the same
    beside = Path(sys.executable).parent / "v6-overlay"
    if beside.is_file():
        return str(beside)
    raise HostError("the v6-overlay program cannot be found", why=f"not beside {sys.executable}")


def wireguard_units(backend: str) -> dict[str, str]:
    """Guard and WireGuard units by name; `backend` is "kernel" or "userspace"."""
    text = _WIREGUARD_KERNEL if backend == "kernel" else _WIREGUARD_USERSPACE
    wireguard_go = shutil.which("wireguard-go") or "/usr/bin/wireguard-go"
    values = {"program": program(), "interface": INTERFACE, "wireguard_go": wireguard_go}
    return {GUARD: _GUARD.format(**values), WIREGUARD: text.format(**values)}


def manager_units() -> dict[str, str]:
    """The manager's unit by name."""
    return {MANAGER: _MANAGER.format(program=program())}


def station_units() -> dict[str, str]:
    """The station agent's socket and service by name."""
    return {STATION_SOCKET: _STATION_SOCKET, STATION: _STATION.format(program=program())}


def missing(units: dict[str, str], directory: Path = UNIT_DIRECTORY) -> list[str]:
    """The names of units that are not installed with exactly this text."""
    absent = []
    for name, text in units.items():
        path = directory / name
        if not path.is_file() or path.read_text() != text:
            absent.append(name)
    return absent


def install(units: dict[str, str], directory: Path = UNIT_DIRECTORY) -> bool:
    """Write units, reload systemd if one changed, enable all; true if one changed.

    Raises:
        MissingRequirement: the host has no systemd.
        HostError: systemd refused.
    """
    require()
    changed = missing(units, directory)
    for name in changed:
        files.write(directory / name, units[name].encode(), 0o644)
    if changed:
        run(["systemctl", "daemon-reload"])
    run(["systemctl", "enable", "--quiet", *units])
    return bool(changed)


def require() -> None:
    """Raise MissingRequirement where systemd does not run."""
    if not Path("/run/systemd/system").is_dir():
        raise MissingRequirement(
            "systemd does not run on this host",
            why="the guard and WireGuard must be up before Docker at every boot",
            next_step="use a host with systemd",
        )


def start(*names: str) -> None:
    """Start units and wait until they are up. Raises HostError with the unit's last lines."""
    _act("start", names)


def restart(*names: str) -> None:
    """Restart units and wait until they are up. Raises HostError with the unit's last lines."""
    _act("restart", names)


def stop(*names: str) -> None:
    """Stop units; unknown ones are ignored."""
    known = [name for name in names if (UNIT_DIRECTORY / name).is_file()]
    if known:
        run(["systemctl", "stop", *known], timeout=60)


def is_active(name: str) -> bool:
    """Whether a unit is up."""
    try:
        run(["systemctl", "is-active", "--quiet", name])
    except HostError:
        return False
    return True


def remove(*names: str) -> None:
    """Stop, disable and delete units of ours."""
    stop(*names)
    known = [name for name in names if (UNIT_DIRECTORY / name).is_file()]
    if known:
        run(["systemctl", "disable", "--quiet", *known])
        for name in known:
            (UNIT_DIRECTORY / name).unlink()
        run(["systemctl", "daemon-reload"])


def _act(verb: str, names: tuple[str, ...]) -> None:
    for name in names:
        try:
            run(["systemctl", verb, name], timeout=60)
        except HostError as error:
            try:
                log = run(["journalctl", "-u", name, "-n", "5", "--no-pager", "-o", "cat"])
            except (HostError, MissingRequirement):
                log = error.why
            raise HostError(
                f"the unit {name} did not {verb}",
                why=log.strip(),
                next_step=f"journalctl -u {name}",
            ) from error
