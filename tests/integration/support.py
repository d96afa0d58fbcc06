"""What the integration tests share: submitting tasks, swapping a station's data, exact truth."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pandas as pd

from overlay.client import Result, collect
from overlay.lab import Lab

DATA_VOLUME = "/var/lib/docker/volumes/vantage6-{station}-user-vol/_data/default.csv"


def submit(
    lab: Lab,
    method: str,
    *,
    stations: Sequence[str] | None = None,
    database: str = "default",
    image: str | None = None,
    **kwargs: Any,
) -> int:
    """Submit one task as the researcher and return its id."""
    organizations = lab.state.organizations
    chosen = lab.state.stations if stations is None else stations
    task = lab.client().task.create(
        collaboration=lab.state.collaboration_id,
        organizations=[organizations[name] for name in chosen],
        name=method,
        image=image or lab.state.image,
        description="integration test",
        input_={"method": method, "kwargs": kwargs},
        databases=[{"label": database}],
    )
    assert "id" in task, task
    return int(task["id"])


def run(lab: Lab, method: str, **kwargs: Any) -> Result:
    """Submit a task, wait for it and verify what came back."""
    return result_of(lab, submit(lab, method, **kwargs))


def result_of(lab: Lab, task_id: int, timeout: float = 90) -> Result:
    """The verified result of a task that was submitted before."""
    return collect(lab.client(), task_id, ca_fingerprint=lab.state.ca_fingerprint, timeout=timeout)


def run_logs(lab: Lab, task_id: int) -> dict[str, dict[str, Any]]:
    """The server's record of each run of a task, by station."""
    by_organization = {v: k for k, v in lab.state.organizations.items()}
    runs = lab.client().run.from_task(task_id)["data"]
    return {by_organization[run["organization"]["id"]]: run for run in runs}


def station_frame(lab: Lab, station: str) -> pd.DataFrame:
    """The default database of a station as its node sees it now."""
    path = DATA_VOLUME.format(station=station)
    return pd.read_csv(io.StringIO(lab.exec(station, ["cat", path]).stdout))


@contextmanager
def data_at(lab: Lab, **csv_by_station: str) -> Iterator[None]:
    """Give stations other data for a while; keyword `hospital_1` means `hospital-1`."""
    wanted = {name.replace("_", "-"): text for name, text in csv_by_station.items()}
    before = {
        station: lab.exec(station, ["cat", DATA_VOLUME.format(station=station)]).stdout
        for station in wanted
    }
    try:
        for station, text in wanted.items():
            _write(lab, station, text)
        yield
    finally:
        for station, text in before.items():
            _write(lab, station, text)


def _write(lab: Lab, station: str, text: str) -> None:
    path = DATA_VOLUME.format(station=station)
    lab.exec(station, ["sh", "-c", f"cat > {path}"], input=text)


def exact_sums(frames: Sequence[pd.DataFrame]) -> dict[str, Fraction]:
    """The pooled truth, without any rounding."""
    return {
        column: sum((Fraction(value) for f in frames for value in f[column]), Fraction(0))
        for column in frames[0].select_dtypes("number").columns
    }
