"""The outer Docker Engine: the machine's own where one answers, else ours that `down` stops."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from overlay.errors import HostError, MissingRequirement
from overlay.lab.shell import Completed, call
from overlay.lab.state import CACHE, RUNTIME, state_file

_SOCKET = RUNTIME / "docker.sock"
_PID_FILE = RUNTIME / "dockerd.pid"


class Engine:
    """A Docker Engine that the lab's hosts run on, spoken to with the docker program."""

    def __init__(self, address: str | None) -> None:
        self.own = address is not None
        self._prefix = ["docker"] + (["-H", address] if address else [])

    def docker(
        self,
        *args: str,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: float | None = 900,
    ) -> Completed:
        """Run `docker ARGS` against this engine; see `call` for the rest."""
        return call([*self._prefix, *args], input=input, check=check, timeout=timeout)

    def argv(self, *args: str) -> list[str]:
        """The command line that `docker` would run."""
        return [*self._prefix, *args]

    def answers(self) -> bool:
        """Whether the engine is there."""
        return self.docker("version", check=False, timeout=20).returncode == 0


def find_engine() -> Engine | None:
    """The engine of an earlier `up`, or the machine's own, or None."""
    if _SOCKET.exists():
        own = Engine(f"unix://{_SOCKET}")
        if own.answers():
            return own
    machine = Engine(None)
    return machine if machine.answers() else None


def start_engine() -> Engine:
    """Start an engine that changes nothing outside its own directories, and wait until it answers.

    It makes no bridge and no firewall rule: the lab's only outer network is internal.

    Raises:
        MissingRequirement: dockerd is not installed, or we are not root.
        HostError: it did not start; the end of its log says why.
    """
    if os.geteuid() != 0:
        raise MissingRequirement("the lab needs root", next_step="sudo v6-overlay lab up")
    RUNTIME.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = state_file().parent / "dockerd.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    argv = [
        "dockerd",
        f"--host=unix://{_SOCKET}",
        f"--data-root={CACHE / 'engine'}",
        f"--exec-root={RUNTIME / 'exec'}",
        f"--pidfile={_PID_FILE}",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-masq=false",
        "--ip-forward=false",
        "--bridge=none",
        "--userland-proxy=false",
    ]
    _wait_gone(_pid())
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True
            )
        except FileNotFoundError:
            raise MissingRequirement(
                "dockerd is not installed", next_step="apt-get install docker.io"
            ) from None
    engine = Engine(f"unix://{_SOCKET}")
    deadline = time.monotonic() + 60
    while not engine.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            raise HostError("dockerd did not start", why=log.read_text()[-1500:])
        time.sleep(0.1)
    return engine


def stop_engine() -> None:
    """Stop the engine that `start_engine` started, if any, and remove its runtime directory."""
    pid = _pid()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not _wait_gone(pid):
            raise HostError(f"dockerd (process {pid}) does not end")
    if RUNTIME.exists():
        _unmount_below(RUNTIME)
        call(["rm", "-rf", "--one-file-system", str(RUNTIME)])
    # dockerd leaves the mount of its own data root behind.
    _unmount_below(CACHE)


def _pid() -> int | None:
    """The process of our engine, only if it is that and not a stranger that got its number."""
    try:
        pid = int(_PID_FILE.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if f"--pidfile={_PID_FILE}".encode() in words else None


def _wait_gone(pid: int | None, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while pid is not None and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if not Path(f"/proc/{pid}").exists() or _is_zombie(pid):
            return True
        time.sleep(0.05)
    return pid is None


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def _unmount_below(directory: Path) -> None:
    lines = Path("/proc/self/mounts").read_text().splitlines()
    points = [line.split()[1] for line in lines]
    for point in reversed(points):
        if point == str(directory) or point.startswith(f"{directory}/"):
            call(["umount", "--lazy", point], check=False)
