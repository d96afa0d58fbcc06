"""Shares are seen to travel station to station, and what the server carries does not grow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from overlay.capture import Kind
from overlay.lab import Lab
from overlay.lab.demo import VECTOR, run_tasks, write
from overlay.lab.demo_report import MOST_SERVER_BYTES, Report
from overlay.lab.demo_tasks import Bench, Task

pytestmark = pytest.mark.lab

THREE = ("hospital-1", "hospital-2", "hospital-3")


@pytest.fixture(scope="module")
def report(lab: Lab) -> Report:
    return run_tasks(lab, print, THREE)


def test_every_promise_of_the_demo_holds(report: Report) -> None:
    report.raise_for_checks()
    assert [run.protocol for run in report.sums] == ["secure_sum", "dk_secure_sum", "dk_secure_sum"]


def test_sums_are_the_pooled_truth(report: Report) -> None:
    for run in report.sums:
        assert run.rows > 0
        assert 0 <= run.max_abs_error <= run.allowed_error < 1e-6
        assert len(run.transcript_sha256) == 64


def test_shares_go_from_station_to_station_inside_wireguard(report: Report) -> None:
    seen = report.vector.traffic
    for one in THREE:
        for other in THREE:
            kinds = {pair.kind for pair in seen.select([one], [other])}
            assert kinds == (set() if one == other else {Kind.WIREGUARD})
    assert report.vector.station_bytes(THREE) > 8 * report.vector.elements
    assert report.plaintext_overlay_packets == 0


def test_the_server_sees_no_share_and_the_control_shows_what_one_looks_like(report: Report) -> None:
    assert all(n < MOST_SERVER_BYTES for n in report.vector.server_bytes(THREE).values())
    through = sum(report.through_server(report.vector).values())
    control = sum(report.through_server(report.control).values())
    assert through < 300_000
    assert control > 8 * report.control.elements


def test_what_the_server_carries_does_not_grow_with_the_vector(lab: Lab, tmp_path: Path) -> None:
    bench = Bench(lab, tmp_path, THREE)
    server, between = {}, {}
    for length in (10_000, 100_000, 1_000_000):
        run = bench.sum_vector(
            Task(f"{length} elements", VECTOR.method, {"column": "x", "length": length}, "vector")
        )
        assert run.max_abs_error <= run.allowed_error
        assert run.traffic.packets_of(Kind.PLAIN_OVERLAY) == 0
        server[length] = run.server_bytes(THREE)
        between[length] = run.station_bytes(THREE)
    print(f"bytes to and from the server: {server}; between stations: {between}")
    for station in THREE:
        sizes = [by_station[station] for by_station in server.values()]
        assert max(sizes) < MOST_SERVER_BYTES
        # 100 times the elements; a thousandth of their bytes would already be 8 kB of growth a
        # station, but heartbeats of node and swarm differ by more than that between two runs.
        assert max(sizes) - min(sizes) < 200_000
    assert between[1_000_000] > 5 * between[100_000] > 10 * between[10_000]


def test_the_report_is_written(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert all(check["passed"] for check in document["checks"])
    assert {pair["src"] for pair in document["traffic"]["pairs"]} >= {"central", *THREE}
    assert "<svg" in (tmp_path / "report.html").read_text()
