"""Run directories: a run's key lives on tmpfs, for this run's container only, and no longer."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from overlay.errors import MissingRequirement, OverlayError

RUNS = Path("/run/v6-overlay/runs")


class Runs:
    """The run directories of this station, `root/<run id>`, each of mode 0700.

    A directory belongs to the container that was created last for the run: the end of an earlier
    container of the same run (a retry) must not take it away.
    """

    def __init__(self, root: Path = RUNS) -> None:
        self.root = root
        self._containers: dict[int, str] = {}
        self._making: set[int] = set()
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Make the root. Raises MissingRequirement where it would be on a disk."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        kind = _filesystem(self.root)
        if kind not in ("tmpfs", "ramfs"):
            raise MissingRequirement(
                f"{self.root} is not in memory",
                why=f"it is on {kind}; the keys of runs must never reach a disk",
                next_step=f"mount -t tmpfs tmpfs {self.root.parent}",
            )

    def begin(self, run_id: int) -> bool:
        """Claim a run for the container that is to be made; false if one is being made already.

        The claim ends with `belongs` or `discard`.
        """
        with self._lock:
            free = run_id not in self._making
            self._making.add(run_id)
        return free

    def admit(
        self,
        run_id: int,
        roster: Mapping[str, Any],
        files: Mapping[str, bytes],
        owner: tuple[int, int],
    ) -> Path:
        """Write an admitted run's directory and return it.

        Args:
            run_id: the run.
            roster: content of roster.json.
            files: further files by name; "identity.key" is a secret like all of them.
            owner: numeric user and group of the container.
        """
        content = {"roster.json": json.dumps(roster).encode(), **files}
        return self._write(run_id, content, owner)

    def refuse(self, run_id: int, error: OverlayError, owner: tuple[int, int] = (0, 0)) -> Path:
        """Write a refused run's directory, which holds only the reason, and return it."""
        return self._write(run_id, {"refused.json": json.dumps(error.as_dict()).encode()}, owner)

    def _write(self, run_id: int, files: Mapping[str, bytes], owner: tuple[int, int]) -> Path:
        shutil.rmtree(self.root / str(run_id), ignore_errors=True)
        directory = self.root / str(run_id)
        directory.mkdir(mode=0o700)
        for name, content in files.items():
            handle = os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            if owner != (0, 0):
                os.chown(directory / name, *owner)
        if owner != (0, 0):
            os.chown(directory, *owner)
        return directory

    def belongs(self, run_id: int, container: str) -> None:
        """Remember which container a run's directory was made for."""
        self._containers[run_id] = container
        self._making.discard(run_id)

    def container(self, run_id: int) -> str | None:
        """The container a run's directory was made for."""
        return self._containers.get(run_id)

    def ended(self, run_id: int, container: str) -> bool:
        """A container has ended; true if its run's directory went with it."""
        if self._containers.get(run_id) != container:
            return False
        self.discard(run_id)
        return True

    def discard(self, run_id: int) -> None:
        """Remove a run's directory, if there is one."""
        self._containers.pop(run_id, None)
        shutil.rmtree(self.root / str(run_id), ignore_errors=True)
        self._making.discard(run_id)

    def present(self) -> list[int]:
        """The runs that have a directory."""
        return sorted(int(path.name) for path in self.root.iterdir() if path.name.isdigit())

    def roster(self, run_id: int) -> dict[str, Any] | None:
        """The roster of an admitted run, or None."""
        try:
            value = json.loads((self.root / str(run_id) / "roster.json").read_text())
        except (OSError, ValueError):
            return None
        return dict(value)

    def keep(self, living: Callable[[], Mapping[int, str]]) -> Collection[int]:
        """After a restart or an outage: take over living containers, drop the rest.

        Args:
            living: asks the engine for {run id: container}; what is made meanwhile is left alone.

        Returns: the runs whose directory went.
        """
        before = {run: self._containers.get(run) for run in self.present()}
        before = {run: holder for run, holder in before.items() if run not in self._making}
        alive = living()
        gone = [
            run
            for run, holder in before.items()
            if run not in alive and run not in self._making and self._containers.get(run) == holder
        ]
        for run_id in gone:
            self.discard(run_id)
        for run_id in before.keys() & alive.keys():
            self._containers.setdefault(run_id, alive[run_id])
        return gone


def _filesystem(path: Path) -> str:
    """The kind of file system that a path is on, by the longest matching mount point."""
    best, kind = "", "unknown"
    resolved = str(path.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found, *_ = line.split(" ")
        inside = resolved == point or resolved.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    return kind
