"""`up` makes a working lab whatever an earlier `up` left; `down` leaves only the cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from overlay.errors import MissingRequirement, UsageError
from overlay.lab import data as station_data
from overlay.lab import hosts, wheels
from overlay.lab.bringup import BringUp
from overlay.lab.engine import Engine, find_engine, start_engine, stop_engine
from overlay.lab.images import ensure_images
from overlay.lab.network import free_subnet
from overlay.lab.seed import ensure_seed
from overlay.lab.shell import Completed, Progress
from overlay.lab.state import (
    CACHE,
    HOSTS_DATA,
    RUNTIME,
    LabState,
    alone,
    load_state,
    ssh_key,
    state_file,
)

if TYPE_CHECKING:
    from vantage6.client import UserClient


def _silent(_: str) -> None:
    """Report nothing."""


class Lab:
    """A lab that is up. Made by `Lab.up` or `Lab.load`."""

    def __init__(self, state: LabState, engine: Engine) -> None:
        self.state = state
        self._engine = engine

    @classmethod
    def up(cls, stations: int = 3, data: Path | None = None, progress: Progress = _silent) -> Lab:
        """Bring a lab up, or return the one that is up already and is the one asked for.

        Args:
            stations: how many station hosts, 1 to 60.
            data: directory with one CSV per station; None for breast_cancer.
            progress: called with the name of every step before it begins.

        Raises:
            MissingRequirement: not root, or a program is missing; says what to type.
            UsageError: the data does not fit the stations.
            HostError: a step failed; what was made so far is removed by the next `up` or `down`.
        """
        if os.geteuid() != 0:
            raise MissingRequirement("the lab needs root", next_step="sudo v6-overlay lab up")
        if not 1 <= stations <= 60:
            raise UsageError(f"a lab has 1 to 60 stations, not {stations}")
        with alone():
            return cls._up(stations, data, progress)

    @classmethod
    def _up(cls, stations: int, data: Path | None, progress: Progress) -> Lab:
        names = [f"hospital-{number}" for number in range(1, stations + 1)]
        csvs = station_data.station_csvs(stations, data)
        engine = find_engine() or start_engine()
        images = ensure_images(engine, progress)
        recipe = wheels.digest([images.host, images.node, images.sums, *names, *csvs])
        state = load_state()
        if state and state.ready and state.recipe == recipe and _all_run(engine, state):
            return cls(state, engine)
        progress("removing what an earlier lab left")
        hosts.remove_everything(engine)
        state = LabState(recipe=recipe, subnet=free_subnet())
        state.save()
        seed = ensure_seed(engine, images, progress)
        BringUp(engine, state, images, seed, progress).run(names, csvs)
        return cls(state, engine)

    @classmethod
    def load(cls) -> Lab:
        """The lab that is up.

        Raises:
            UsageError: none is.
        """
        state, engine = load_state(), find_engine()
        if state is None or engine is None or not state.ready:
            raise UsageError("no lab is up", next_step="v6-overlay lab up --stations 3")
        return cls(state, engine)

    def status(self) -> list[dict[str, str]]:
        """One row per host: name, address, states of its container, engine and node."""
        return [self._row(name, host) for name, host in self.state.hosts.items()]

    def exec(
        self,
        host: str,
        argv: Sequence[str],
        input: str | bytes | None = None,
        check: bool = True,
        timeout: float | None = 900,
    ) -> Completed:
        """Run a program on a host as root.

        Args:
            host: "central" or a station's name.
            argv: the program and its arguments.
            input: what it reads on standard input; secrets go here.
            check: raise a HostError where it fails.
            timeout: seconds.
        """
        self.container(host)
        return hosts.exec_in(
            self._engine, host, list(argv), input=input, check=check, timeout=timeout
        )

    def container(self, host: str) -> str:
        """The name of a host's container on the outer engine.

        Raises:
            UsageError: the lab has no such host.
        """
        if host not in self.state.hosts:
            raise UsageError(f"no host {host}", next_step=f"one of: {', '.join(self.state.hosts)}")
        return hosts.container(host)

    def exec_argv(self, host: str, argv: Sequence[str], *, terminal: bool) -> list[str]:
        """The command line for an interactive `exec`, to hand this process over to."""
        options = ["--interactive", *(["--tty"] if terminal else [])]
        return self._engine.argv("exec", *options, self.container(host), *argv)

    def ssh_argv(self, host: str) -> list[str]:
        """The command line that opens a shell on a host through its own sshd."""
        self.container(host)
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", str(ssh_key()), *flags, f"root@{self.state.hosts[host]['address']}"]

    def docker(self, *args: str, check: bool = True) -> Completed:
        """Run docker against the outer engine: to kill, pause or start a host as a fault would."""
        return self._engine.docker(*args, check=check)

    def data_file(self, station: str, label: str) -> Path:
        """The CSV behind a station's database, as this machine sees it."""
        return HOSTS_DATA / station / "data" / f"{label}.csv"

    def client(self) -> UserClient:
        """A vantage6 client that is logged in as the researcher."""
        from vantage6.client import UserClient

        address, _, port = self.state.server_url.rpartition(":")
        client = UserClient(address, int(port), self.state.api_path, log_level="warn")
        client.authenticate(self.state.researcher["username"], self.state.researcher["password"])
        client.setup_encryption(None)
        return client

    def _row(self, name: str, host: dict[str, str]) -> dict[str, str]:
        row = {
            "host": name,
            "address": host["address"],
            "container": "gone",
            "engine": "",
            "node": "",
        }
        template = "{{.State.Status}}"
        found = self._engine.docker(
            "inspect", "--format", template, hosts.container(name), check=False
        )
        if found.returncode == 0:
            row["container"] = found.stdout.strip()
        if row["container"] == "running":
            query = ["systemctl", "is-active", "docker", "vantage6-node"]
            states = [*self.exec(name, query, check=False).stdout.split(), "", ""]
            row["engine"], row["node"] = states[0], states[1] if name != "central" else ""
        return row


def down(progress: Progress = _silent) -> None:
    """Remove hosts, network, cgroups, state and the engine that `up` started; the cache stays.

    Works on whatever a crashed `up` left, and does nothing where there is nothing.

    Raises:
        HostError: something does not go away.
    """
    with alone():
        _down(progress)


def _down(progress: Progress) -> None:
    engine = find_engine()
    # Containers of an engine that died are removed by the engine itself, or not at all.
    if engine is None and (RUNTIME.exists() or HOSTS_DATA.exists()):
        engine = start_engine()
    if engine is not None:
        progress("removing hosts and network")
        hosts.remove_everything(engine)
        if engine.own:
            engine.docker("container", "prune", "--force")
    progress("stopping the lab's engine")
    stop_engine()
    hosts.remove_cgroups()
    for leftover in [*CACHE.glob("context-*"), *CACHE.glob("tmp*"), *CACHE.glob("*/*.part")]:
        shutil.rmtree(leftover, ignore_errors=True)
    state_file().unlink(missing_ok=True)
    with suppress(OSError):
        for name in ("ssh", "ssh.pub", "dockerd.log"):
            (state_file().parent / name).unlink(missing_ok=True)
        state_file().parent.rmdir()
        state_file().parent.parent.rmdir()


def _all_run(engine: Engine, state: LabState) -> bool:
    names = [hosts.container(name) for name in state.hosts]
    found = engine.docker("inspect", "--format", "{{.State.Running}}", *names, check=False)
    return found.returncode == 0 and set(found.stdout.split()) == {"true"}
