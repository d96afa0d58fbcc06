"""A task's capture begins before it is submitted and ends after its result was verified."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from overlay.capture import Capture, Traffic, read_traffic
from overlay.client import Result, collect
from overlay.errors import ResultError
from overlay.lab import Lab
from overlay.lab.demo_report import Run
from overlay.lab.demo_truth import (
    allowed_error,
    is_whole,
    largest_error,
    pooled_sums,
    pooled_vector,
    read_table,
)
from overlay.lab.shell import call

FRACTION_BITS = 32
MACHINE = "researcher"  # the machine that the lab runs on, where vantage6-client runs
_TIMEOUT = 120.0


@dataclass(frozen=True)
class Task:
    """One task as the researcher submits it.

    Attributes:
        title: what the report calls it.
        method: the function of the algorithm image.
        kwargs: its arguments.
        database: label of the stations' database; empty for a task that reads none.
    """

    title: str
    method: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    database: str = "default"


class Bench:
    """Submits tasks to a lab's stations and captures the outer network meanwhile.

    Args:
        lab: a lab that is up.
        directory: where the capture files go.
        stations: which stations take part; all of the lab's if not given.
    """

    def __init__(self, lab: Lab, directory: Path, stations: Sequence[str] | None = None) -> None:
        self.lab = lab
        self.directory = directory
        self.stations = tuple(stations or lab.state.stations)
        self._client = lab.client()
        self._names = host_names(lab)

    def measure(self, task: Task) -> tuple[Result | None, float, Traffic]:
        """Run a task: its verified result, seconds from submission to it, and the traffic.

        The result is None for a task without a database, which has nothing to sum.

        Raises:
            ResultError: the task failed or its result does not verify.
            CaptureFailed: packets were lost.
        """
        path = self.directory / f"{task.title.replace(' ', '-')}.pcap"
        with Capture(self.lab.state.bridge, path):
            started = time.perf_counter()
            number = self._submit(task)
            result = None
            if task.database:
                result = collect(
                    self._client,
                    number,
                    ca_fingerprint=self.lab.state.ca_fingerprint,
                    timeout=_TIMEOUT,
                    interval=0.2,
                )
            else:
                self._wait(number)
            seconds = time.perf_counter() - started
        return result, seconds, read_traffic(path, self._names)

    def sum_columns(self, task: Task) -> Run:
        """Sum the stations' columns and compare them with the pooled truth."""
        tables = [read_table(text) for text in self._files("default")]
        truth = pooled_sums(tables)
        result, seconds, traffic = self.measure(task)
        if result is None:
            raise ResultError(f"{task.title} returned nothing")
        sums = result.sums
        floats = [name for name in truth if not is_whole(tables, name)]
        whole = [name for name in truth if is_whole(tables, name)]
        wrong = any(sums.get(name) != truth[name] for name in whole)
        rows = result.rows
        wrong = wrong or rows != sum(len(table) for table in tables)
        return Run(
            task.title,
            seconds,
            traffic,
            protocol=result.report["protocol"],
            rows=rows,
            result=sums,
            expected={name: int(v) if name in whole else float(v) for name, v in truth.items()},
            max_abs_error=float("inf") if wrong else largest_error(sums, truth),
            allowed_error=max(
                (allowed_error(truth[name], len(tables), FRACTION_BITS) for name in floats),
                default=0.0,
            ),
            transcript_sha256=result.transcript_sha256,
        )

    def sum_vector(self, task: Task) -> Run:
        """Sum a vector; the whole of it is checked by its digest, the first elements by eye."""
        length = task.kwargs.get("length")
        parts = [
            pd.read_csv(io.StringIO(text), nrows=length)[task.kwargs["column"]].to_numpy(float)
            for text in self._files("vector")
        ]
        result, seconds, traffic = self.measure(task)
        if result is None:
            raise ResultError(f"{task.title} returned nothing")
        report = result.report
        truth, summed = pooled_vector(parts), fixed_point_sum(parts)
        same = report["vector_sha256"] == hashlib.sha256(summed.tobytes()).hexdigest()
        error = float(np.abs(summed - truth).max()) if same else float("inf")
        shown = report["elements"]
        return Run(
            task.title,
            seconds,
            traffic,
            protocol=report["protocol"],
            rows=len(truth),
            elements=len(truth),
            result={f"x[{i}]": value for i, value in enumerate(shown)},
            expected={f"x[{i}]": float(truth[i]) for i in range(len(shown))},
            max_abs_error=error,
            allowed_error=len(parts) * 2.0 ** -(FRACTION_BITS + 1)
            + float(np.spacing(np.abs(truth).max())) / 2,
            transcript_sha256=result.transcript_sha256,
        )

    def _files(self, label: str) -> list[str]:
        return [self.lab.data_file(station, label).read_text() for station in self.stations]

    def _submit(self, task: Task) -> int:
        state = self.lab.state
        answer = self._client.task.create(
            collaboration=state.collaboration_id,
            organizations=[state.organizations[name] for name in self.stations],
            name=task.title,
            image=state.image,
            description="v6-overlay demo",
            input_={"method": task.method, "kwargs": dict(task.kwargs)},
            databases=[{"label": task.database}] if task.database else [],
        )
        if "id" not in answer:
            raise ResultError(
                f"the server did not take the task {task.title}", why=str(answer.get("msg", ""))
            )
        return int(answer["id"])

    def _wait(self, number: int) -> None:
        """Until all runs of a task have ended well.

        Raises:
            ResultError: a run failed, or the task did not end in time.
        """
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            runs = self._client.run.from_task(number)["data"]
            states = {run["status"] for run in runs}
            if states == {"completed"}:
                return
            bad = {s for s in states if s in ("failed", "crashed", "killed", "not allowed")}
            if bad:
                raise ResultError(f"task {number} ended as {', '.join(sorted(bad))}")
            time.sleep(0.2)
        raise ResultError(f"task {number} did not end within {_TIMEOUT:.0f} s")


def host_names(lab: Lab) -> dict[str, str]:
    """Outer address -> name of every host, and of the machine itself on the bridge."""
    links = json.loads(call(["ip", "-json", "address", "show", "dev", lab.state.bridge]).stdout)
    own = {entry["local"]: MACHINE for link in links for entry in link["addr_info"]}
    return own | {host["address"]: name for name, host in lab.state.hosts.items()}


def fixed_point_sum(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """What the protocol must return, element by element: each part rounded once to 2^-f."""
    factor = 2.0**FRACTION_BITS
    total = sum((np.rint(part * factor).astype(np.int64) for part in parts), np.int64(0))
    return np.asarray(total, dtype=np.float64) / factor
