"""However a demo ends, the lab goes down unless it was to be kept; a broken promise fails."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner

from overlay.cli.demo import demo
from overlay.errors import HostError, PlaintextSeen, UsageError
from overlay.lab import demo as product
from overlay.lab.demo_report import Report

from .test_report import report, run, traffic  # noqa: F401


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, report: Report) -> list[str]:  # noqa: F811
    """The steps that a demonstration took, on a lab that only says that it was called."""
    steps: list[str] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def up(stations: int, data: Path | None, progress: object) -> str:
        steps.append(f"up {stations}")
        return "lab"

    def tasks(lab: str, progress: object) -> Report:
        steps.append("tasks")
        return report

    monkeypatch.setattr(product.Lab, "up", up)
    monkeypatch.setattr(product, "run_tasks", tasks)
    monkeypatch.setattr(product, "down", lambda *_: steps.append("down"))
    return steps


def test_a_demo_writes_its_report_and_cleans_up(calls: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--out", str(tmp_path), "--stations", "4"])
    assert result.exit_code == 0, result.output
    assert calls == ["up 4", "tasks", "down"]
    assert "Sums against the pooled truth" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}


def test_keep_keeps_and_json_is_json(calls: list[str], tmp_path: Path) -> None:
    result = CliRunner(mix_stderr=False).invoke(
        demo, ["--out", str(tmp_path), "--keep", "--format", "json"]
    )
    assert calls == ["up 3", "tasks"]
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())


def test_a_broken_promise_fails_after_the_report_is_written(
    calls: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    report: Report,  # noqa: F811
) -> None:
    bad = dataclasses.replace(report, control=run("control", traffic(9_000_000, 9, plain=3)))
    monkeypatch.setattr(product, "run_tasks", lambda *_: bad)
    result = CliRunner().invoke(demo, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    assert isinstance(result.exception, PlaintextSeen)
    assert calls[-1] == "down"
    words = ["--out", str(tmp_path), "--format", "json"]
    result = CliRunner(mix_stderr=False).invoke(demo, words)
    assert result.exit_code == 1
    errors = [check["error"] for check in json.loads(result.stdout)["checks"]]
    assert "PlaintextSeen" in errors
    assert "PlaintextSeen" in result.stderr
    assert (tmp_path / "report.json").exists()


@pytest.mark.parametrize("error", [HostError("no"), KeyboardInterrupt()])
def test_the_lab_goes_down_on_errors_and_interrupts(
    calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def broken(*_: object) -> Report:
        raise error

    monkeypatch.setattr(product, "run_tasks", broken)
    with pytest.raises(type(error)):
        product.demonstrate(3, None, tmp_path, keep=False, progress=print)
    assert calls == ["up 3", "down"]


def test_stations_follow_the_data(tmp_path: Path) -> None:
    assert product.station_count(None, None) == 3
    with pytest.raises(UsageError, match="no CSV"):
        product.station_count(None, tmp_path)
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text("a\n1\n")
    assert product.station_count(None, tmp_path) == 4
    with pytest.raises(UsageError, match="4 CSV files for 3"):
        product.station_count(3, tmp_path)
    (tmp_path / "0.csv").unlink()
    (tmp_path / "1.csv").unlink()
    with pytest.raises(UsageError, match="too few"):
        product.station_count(None, tmp_path)
