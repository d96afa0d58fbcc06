"""What a lab could leave behind on the machine, as sets of lines that can be compared."""

from __future__ import annotations

import json
from pathlib import Path

from overlay.lab.shell import call

_CGROUP = Path("/sys/fs/cgroup")


def traces() -> dict[str, set[str]]:
    """Namespaces, links, firewall rules, mounts, processes, cgroups and routes of this machine.

    Threads and processes of the caller's own tree are left out: they are the test run.
    """
    links = json.loads(call(["ip", "-json", "link"]).stdout)
    return {
        "namespaces": _namespaces(),
        "links": {link["ifname"] for link in links},
        "routes": set(call(["ip", "route", "show", "table", "all"]).stdout.splitlines()),
        "nft": set(call(["nft", "list", "ruleset"]).stdout.splitlines()),
        "iptables": set(call(["iptables-save"], check=False).stdout.splitlines()),
        # With their options: a container can make a shared file system read-only.
        "mounts": set(Path("/proc/self/mounts").read_text().splitlines()),
        "processes": _processes(),
        # Deeper ones belong to whatever else runs here.
        "cgroups": {str(p) for d in ("*", "*/*") for p in _CGROUP.glob(d) if p.is_dir()},
        "sysctl": {f"ip_forward={Path('/proc/sys/net/ipv4/ip_forward').read_text().strip()}"},
        "files": {
            str(path)
            for folder in (
                "/run/v6-overlay-lab",
                "/var/lib/v6-overlay",
                "/var/cache/v6-overlay/hosts",
            )
            for path in [Path(folder)]
            if path.exists()
        },
    }


def _namespaces() -> set[str]:
    found = set()
    for process in _pids():
        for kind in ("net", "mnt", "pid", "uts", "ipc", "cgroup"):
            try:
                found.add(str(Path(f"/proc/{process}/ns/{kind}").readlink()))
            except OSError:
                continue
    return found


def _processes() -> set[str]:
    """Programs that a lab starts; other people's processes come and go."""
    names = ("dockerd", "containerd", "containerd-shim", "runc", "wireguard-go", "docker")
    found = set()
    for process in _pids():
        try:
            stat = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            continue
        name, state = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(") ")[2][:1]
        # A zombie is its parent's to fetch, and holds nothing.
        if name.startswith(names) and state != "Z":
            found.add(f"{name} {process}")
    return found


def _pids() -> list[str]:
    return [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
