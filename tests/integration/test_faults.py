"""A fault in mid-run ends every surviving run with a named error, never with a wrong sum."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import pytest

from overlay.errors import ResultError
from overlay.lab import Lab

from .hosts import kill, start_again, wait_nodes_online
from .support import result_of, run, run_logs, submit

pytestmark = pytest.mark.lab

THREE = ["hospital-1", "hospital-2", "hospital-3"]
SLOW = "rate 6mbit burst 64kbit latency 200ms"


@contextmanager
def slow_links(lab: Lab) -> Iterator[None]:
    """Stretch a million-element exchange to many seconds, so that there is a middle to hit."""
    for station in THREE:
        lab.exec(station, ["sh", "-c", f"tc qdisc replace dev wg-v6o root tbf {SLOW}"])
    try:
        yield
    finally:
        for station in THREE:
            lab.exec(station, ["tc", "qdisc", "del", "dev", "wg-v6o", "root"], check=False)


def sent_bytes(lab: Lab, station: str) -> int:
    text = lab.exec(station, ["cat", "/sys/class/net/wg-v6o/statistics/tx_bytes"]).stdout
    return int(text)


def start_big_sum(lab: Lab) -> int:
    """Submit a million-element sum and return once its data is flowing between stations."""
    before = sent_bytes(lab, "hospital-1")
    task = submit(lab, "dk_secure_sum_vector", stations=THREE, database="vector", column="x")
    deadline = time.monotonic() + 60
    while sent_bytes(lab, "hospital-1") - before < 500_000:
        assert time.monotonic() < deadline, "the exchange did not begin"
        time.sleep(0.1)
    return task


def run_container(lab: Lab, station: str) -> str:
    """The id of the algorithm container that runs on a station now."""
    out = lab.exec(station, ["docker", "ps", "-q", "--filter", "label=vantage6-type=algorithm"])
    ids: list[str] = out.stdout.split()
    assert len(ids) == 1, ids
    return ids[0]


def assert_survivors_name(lab: Lab, task: int, lost: str, since: datetime) -> None:
    """Every other station's run ended within 15 s of the fault, naming the lost one."""
    survivors = [name for name in THREE if name != lost]
    deadline = time.monotonic() + 30
    while True:
        runs = run_logs(lab, task)
        if all(runs[name]["finished_at"] for name in survivors):
            break
        assert time.monotonic() < deadline, {n: r["status"] for n, r in runs.items()}
        time.sleep(0.5)
    for name in survivors:
        assert runs[name]["status"] in {"crashed", "failed"}
        assert f"PeerLost: {lost}" in runs[name]["log"] or (
            "PeerLost" in runs[name]["log"] and lost in runs[name]["log"]
        ), runs[name]["log"]
        ended = datetime.fromisoformat(runs[name]["finished_at"])
        took = (ended.replace(tzinfo=ended.tzinfo or timezone.utc) - since).total_seconds()
        assert took <= 15, f"{name} took {took:.1f} s"


def test_killed_container_ends_the_others_with_its_name(lab: Lab) -> None:
    with slow_links(lab):
        task = start_big_sum(lab)
        victim = run_container(lab, "hospital-2")
        since = datetime.now(timezone.utc)
        lab.exec("hospital-2", ["docker", "kill", victim])
        assert_survivors_name(lab, task, "hospital-2", since)
    with pytest.raises(ResultError, match=r"PeerLost|killed|crashed"):
        result_of(lab, task)
    assert run(lab, "dk_secure_sum", stations=THREE).rows > 0


def test_killed_station_ends_the_others_and_comes_back(lab: Lab) -> None:
    with slow_links(lab):
        task = start_big_sum(lab)
        since = datetime.now(timezone.utc)
        kill(lab, "hospital-3")
        try:
            assert_survivors_name(lab, task, "hospital-3", since)
        finally:
            start_again(lab, "hospital-3")
    assert run(lab, "dk_secure_sum", stations=THREE).rows > 0


def test_killed_manager_does_not_stop_a_running_exchange(lab: Lab) -> None:
    """Manager process and the Swarm manager's engine both die while shares are in flight."""
    with slow_links(lab):
        task = start_big_sum(lab)
        units = ["v6-overlay-manager.service", "docker.service", "docker.socket"]
        lab.exec("central", ["systemctl", "kill", "-s", "KILL", units[0], units[1]])
        lab.exec("central", ["systemctl", "stop", *reversed(units)], check=False)
        try:
            result = result_of(lab, task, timeout=180)
            assert result.transcript_sha256
        finally:
            lab.exec("central", ["systemctl", "reset-failed", *units], check=False)
            lab.exec("central", ["systemctl", "start", *reversed(units)])
            wait_nodes_online(lab, THREE)
    assert run(lab, "dk_secure_sum", stations=THREE).rows > 0
