"""A lab host is a container that a real systemd runs in; it gets its files before it boots."""

from __future__ import annotations

import io
import shutil
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from overlay.errors import HostError
from overlay.lab.engine import Engine
from overlay.lab.shell import Completed, call
from overlay.lab.state import BRIDGE, HOSTS_DATA, LABEL, NETWORK

PREFIX = "v6lab-"
CGROUP = "v6-overlay-lab"
# `--privileged` asks for every capability and fails where the machine itself lacks one.
_CAPABILITIES = """
    AUDIT_CONTROL DAC_READ_SEARCH IPC_LOCK IPC_OWNER LEASE LINUX_IMMUTABLE NET_ADMIN NET_BROADCAST
    SYS_ADMIN SYS_BOOT SYS_NICE SYS_PACCT SYS_PTRACE SYS_TIME SYS_TTY_CONFIG SYSLOG SYS_RAWIO
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Text:
    """The content and mode of one file that a host finds at boot."""

    content: bytes
    mode: int = 0o644


@dataclass
class HostPlan:
    """What a host is to be made of.

    Args:
        name: host name; `PREFIX + name` is the container's.
        address: its IPv4 address on the outer network.
        peers: every host's name and address, for /etc/hosts.
        files: absolute path to content.
        mounts: extra binds, "source:target[:ro]".
    """

    name: str
    address: str
    peers: dict[str, str]
    files: dict[str, Text] = field(default_factory=dict)
    mounts: list[str] = field(default_factory=list)


def container(name: str) -> str:
    """The container's name of a host."""
    return PREFIX + name


def make_network(engine: Engine, subnet: str) -> None:
    """The outer network: internal, so that the lab reaches nothing and nothing reaches the lab."""
    engine.docker(
        "network", "create", "--internal", "--subnet", subnet, "--label", LABEL,
        "--opt", f"com.docker.network.bridge.name={BRIDGE}", NETWORK,
    )  # fmt: skip


def start_host(engine: Engine, image: str, plan: HostPlan, network: str = NETWORK) -> None:
    """Create the container, hand it its files, boot it. The data root below HOSTS_DATA is bound."""
    data = HOSTS_DATA / plan.name / "docker"
    data.mkdir(parents=True, exist_ok=True)
    options = ["--cgroupns=host", *_cgroup_mounts()]
    options += [f"--cgroup-parent={cgroup_parent(engine)}"]
    options += [f"--cap-add={capability}" for capability in _CAPABILITIES]
    options += [f"--security-opt={name}=unconfined" for name in ("seccomp", "apparmor")]
    options += ["--security-opt=systempaths=unconfined", "--device=/dev/net/tun"]
    options += ["--device-cgroup-rule=a *:* rwm", f"--label={LABEL}", "--tty"]
    options += ["--tmpfs=/run:exec,mode=755", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec,mode=1777"]
    options += [f"--volume={data}:/var/lib/docker"]
    options += [f"--volume={mount}" for mount in plan.mounts]
    options += [f"--network={network}", f"--hostname={plan.name}"]
    options += [f"--ip={plan.address}"] if plan.address else []
    options += [f"--add-host={name}:{address}" for name, address in plan.peers.items()]
    options += ["--stop-timeout=10", f"--name={container(plan.name)}"]
    engine.docker("create", *options, image)
    if plan.files:
        engine.docker("cp", "-", f"{container(plan.name)}:/", input=_tar(plan.files))
    engine.docker("start", container(plan.name))


def cgroup_parent(engine: Engine) -> str:
    """The cgroup that holds the lab's containers, in the engine's own way of naming."""
    driver = engine.docker("info", "--format", "{{.CgroupDriver}}").stdout.strip()
    return f"{CGROUP.replace('-', '')}.slice" if driver == "systemd" else f"/{CGROUP}"


def wait_for(engine: Engine, name: str, command: str, seconds: float, what: str) -> None:
    """Repeat a shell command in a host until it succeeds.

    Raises:
        HostError: it did not within `seconds`; carries the host's last journal lines.
    """
    loop = f"until {{ {command}; }} >/dev/null 2>&1; do sleep 0.1; done"
    deadline = time.monotonic() + seconds
    argv = engine.argv("exec", container(name), "timeout", str(seconds), "sh", "-c", loop)
    if call(argv, check=False, timeout=seconds + 30).returncode == 0:
        return
    waited = seconds - max(0.0, deadline - time.monotonic())
    log = engine.docker(
        "exec", container(name), "journalctl", "--no-pager", "--lines=30", "--priority=6",
        check=False,
    )  # fmt: skip
    raise HostError(f"{name}: {what} did not come within {waited:.0f} s", why=log.stdout[-2500:])


def exec_in(
    engine: Engine,
    name: str,
    argv: list[str],
    *,
    input: str | bytes | None = None,
    check: bool = True,
    timeout: float | None = 900,
) -> Completed:
    """Run a program in a host as root."""
    interactive = ["--interactive"] if input is not None else []
    return engine.docker(
        "exec", *interactive, container(name), *argv, input=input, check=check, timeout=timeout
    )


def put_files(engine: Engine, name: str, files: dict[str, Text]) -> None:
    """Write files into a running host; their content is in no command line.

    Through tar inside the host, because `docker cp` does not see the host's own tmpfs mounts.
    """
    exec_in(engine, name, ["tar", "--extract", "--directory=/"], input=_tar(files))


def remove_everything(engine: Engine) -> None:
    """Remove every container and network of the lab, and the hosts' data."""
    ids = engine.docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").stdout.split()
    if ids:
        engine.docker("rm", "--force", "--volumes", *ids)
    found = engine.docker("network", "ls", "--quiet", "--filter", f"label={LABEL}").stdout.split()
    for network in found:
        engine.docker("network", "rm", network)
    shutil.rmtree(HOSTS_DATA, ignore_errors=True)


def remove_cgroups() -> None:
    """Remove the empty cgroup directories that stopped containers leave behind."""
    roots = [*Path("/sys/fs/cgroup").glob(f"*/{CGROUP}"), Path("/sys/fs/cgroup") / CGROUP]
    for root in filter(Path.is_dir, roots):
        directories = sorted(
            (p for p in root.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts)
        )
        for directory in [*directories, root]:
            directory.rmdir()


def _cgroup_mounts() -> list[str]:
    """The machine's cgroup trees, writable: systemd finds its own place in them.

    On version 1 each tree is bound by itself below a tmpfs of the host's own, because systemd makes
    directories beside them for the controllers that it misses.
    """
    top = Path("/sys/fs/cgroup")
    if (top / "cgroup.controllers").exists():
        return [f"--volume={top}:{top}:rw"]
    trees = [entry for entry in top.iterdir() if not entry.is_symlink() and entry.is_mount()]
    return [f"--tmpfs={top}:mode=755", *(f"--volume={tree}:{tree}:rw" for tree in sorted(trees))]


def _tar(files: dict[str, Text]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(text.content), text.mode, int(time.time())
            archive.addfile(entry, io.BytesIO(text.content))
    return buffer.getvalue()
