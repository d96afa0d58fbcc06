"""The demonstration: a lab, five tasks under capture, a report; nothing is left behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from overlay.errors import MissingRequirement, UsageError
from overlay.lab import Lab, down
from overlay.lab.demo_html import render
from overlay.lab.demo_report import Report, Run
from overlay.lab.demo_tasks import Bench, Task

Progress = Callable[[str], None]
MILLION = 1_000_000

RING = Task("secure sum", "secure_sum")
DK = Task("dk-secure sum", "dk_secure_sum")
EMPTY = Task("empty task", "about", database="")
VECTOR = Task(
    "million-element sum",
    "dk_secure_sum_vector",
    {"column": "x", "length": MILLION},
    database="vector",
)
CONTROL = Task(
    "control through the server",
    "dk_secure_sum_vector",
    {"column": "x", "length": MILLION, "return_": "vector"},
    database="vector",
)


def demonstrate(
    stations: int | None,
    data: Path | None,
    out: Path,
    *,
    keep: bool,
    progress: Progress,
) -> Report:
    """Bring a lab up, run the demonstration, write the report, take the lab down.

    Args:
        stations: how many; None for one per file of `data`, or 3.
        data: a directory with one CSV per station, given to them in sorted order; None for
            scikit-learn's breast_cancer in unequal parts.
        out: where report.json and report.html go.
        keep: leave the lab up.
        progress: takes one line per step.

    Raises:
        MissingRequirement: not root.
        UsageError: the options contradict each other.
        OverlayError: what the lab, a task or a capture raises. Whether the report's checks hold
            is the caller's to ask: the report is written either way.
    """
    if os.geteuid() != 0:
        raise MissingRequirement("the demo needs root", next_step="sudo script/demo")
    count = station_count(stations, data)
    out.mkdir(parents=True, exist_ok=True)
    try:
        lab = Lab.up(stations=count, data=data, progress=progress)
        report = run_tasks(lab, progress)
        write(report, out)
        progress(f"wrote {out / 'report.json'} and {out / 'report.html'}")
        return report
    finally:
        if keep:
            progress("the lab stays up; take it down with: v6-overlay lab down")
        else:
            progress("taking the lab down")
            down()


def run_tasks(lab: Lab, progress: Progress, stations: tuple[str, ...] | None = None) -> Report:
    """Run the demonstration's tasks on a lab that is up, each under a capture of its own."""
    with TemporaryDirectory(prefix="v6-overlay-captures-") as directory:
        bench = Bench(lab, Path(directory), stations)
        progress(f"{RING.title} and {DK.title} over {len(bench.stations)} stations")
        columns = (bench.sum_columns(RING), bench.sum_columns(DK))
        progress(VECTOR.title)
        vector = bench.sum_vector(VECTOR)
        progress(EMPTY.title)
        _, seconds, traffic = bench.measure(EMPTY)
        progress(CONTROL.title)
        control = bench.sum_vector(CONTROL)
    return Report(bench.stations, (*columns, vector), Run(EMPTY.title, seconds, traffic), control)


def write(report: Report, out: Path) -> None:
    """Write report.json and report.html."""
    (out / "report.json").write_text(json.dumps(report.as_dict(), indent=1, allow_nan=False) + "\n")
    (out / "report.html").write_text(render(report))


def station_count(stations: int | None, data: Path | None) -> int:
    """How many stations the options mean.

    Raises:
        UsageError: there is no data, or not one file per station, or fewer than 3 stations.
    """
    if data is not None:
        files = sorted(data.glob("*.csv")) if data.is_dir() else []
        if not files:
            raise UsageError(f"{data} holds no CSV file", next_step="one CSV file per station")
        if stations not in (None, len(files)):
            raise UsageError(
                f"{data} holds {len(files)} CSV files for {stations} stations",
                next_step=f"leave out --stations, or say --stations {len(files)}",
            )
        stations = len(files)
    count = 3 if stations is None else stations
    if count < 3:
        raise UsageError(
            f"{count} stations are too few",
            why="with two, each learns the other's value from the sum",
            next_step="--stations 3",
        )
    return count
