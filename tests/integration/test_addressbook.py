"""An algorithm written for vantage6's VPN runs unchanged, and only its own task reaches it."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.lab import Lab

from .hosts import Admin
from .support import run_logs, submit

pytestmark = pytest.mark.lab

THREE = ["hospital-1", "hospital-2", "hospital-3"]
SETTING = "/etc/v6-overlay/station.yaml"


def context(base: str) -> bytes:
    """What `docker build` reads: the algorithm and how vantage6 algorithms expose a port."""
    dockerfile = (
        f"FROM {base}\nCOPY vpnalgo.py /opt/vpn/\nENV PYTHONPATH=/opt/vpn PKG_NAME=vpnalgo\n"
        "EXPOSE 8888\nLABEL p8888=echo\n"
    )
    algorithm = Path(__file__).with_name("vpnalgo.py").read_text()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in (("Dockerfile", dockerfile), ("vpnalgo.py", algorithm)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def image(lab: Lab) -> Iterator[str]:
    """The algorithm, allowed at three stations that opted in to the address book."""
    name = lab.state.image.rsplit("/", 1)[0] + "/vpnalgo:1"
    lab.exec("central", ["docker", "build", "-q", "-t", name, "-"], input=context(lab.state.image))
    lab.exec("central", ["docker", "push", "-q", name])
    for station in THREE:
        lab.exec(station, ["docker", "pull", "-q", name])
        lab.exec(station, ["v6-overlay", "image", "allow", name])
        switch(lab, station, "false", "true")
    yield name
    for station in THREE:
        switch(lab, station, "true", "false")
        lab.exec(station, ["v6-overlay", "image", "remove", name])


def switch(lab: Lab, station: str, before: str, after: str) -> None:
    lab.exec(station, ["sed", "-i", f"s/^address_book: {before}/address_book: {after}/", SETTING])
    found = lab.exec(station, ["grep", "-c", f"^address_book: {after}", SETTING]).stdout
    assert found.strip() == "1"


def results(lab: Lab, task: int) -> list[Any]:
    """What every run of a task returned, waiting for the last."""
    deadline = time.monotonic() + 120
    while True:
        runs = run_logs(lab, task)
        if all(run["finished_at"] for run in runs.values()):
            break
        assert time.monotonic() < deadline, {name: run["status"] for name, run in runs.items()}
        time.sleep(0.5)
    failed = {n: run["log"] for n, run in runs.items() if run["status"] != "completed"}
    assert not failed, failed
    return [json.loads(item["result"]) for item in lab.client().result.from_task(task)["data"]]


def book_of(lab: Lab, station: str) -> dict[str, list[list[Any]]]:
    """Run id to [port, target, label] of every port that a station's agent has given out."""
    path = "/run/v6-overlay/addressbook.json"
    text = lab.exec(station, ["cat", path], check=False).stdout
    return dict(json.loads(text or "{}"))


def targets_of(lab: Lab, task: int) -> list[list[Any]]:
    """Station address and port of every run of a task, as soon as all are in the book."""
    admin = Admin(lab)
    runs = run_logs(lab, task)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        nodes = admin.get("/node", per_page=250)["data"]
        address = {node["organization"]["id"]: node["ip"] for node in nodes}
        found = [
            [address[lab.state.organizations[station]], port]
            for station, run in runs.items()
            for port, _, _ in book_of(lab, station).get(str(run["id"]), [])
        ]
        if len(found) == len(runs):
            return found
        time.sleep(0.3)
    raise AssertionError("the address book did not fill")


def test_two_tasks_at_once_reach_their_own_peers(lab: Lab, image: str) -> None:
    tasks = [submit(lab, "echo", stations=THREE, image=image, peers=3) for _ in range(2)]
    seen: list[tuple[str, int]] = []
    for task in tasks:
        answers = results(lab, task)
        assert len(answers) == 3
        for one in answers:
            # vantage6 lists the asking run itself too.
            assert [entry["answer"] for entry in one] == ["echo:hi"] * 3, one
        seen += {(entry["ip"], entry["port"]) for one in answers for entry in one}
    # One address for each station, a port of its own for each run.
    assert len(set(seen)) == 6
    assert len({ip for ip, _ in seen}) == 3


def test_another_task_is_not_let_in(lab: Lab, image: str) -> None:
    """The twin of the test above: same image, same stations, same moment, but another task."""
    task = submit(lab, "echo", stations=THREE, image=image, peers=3, linger=25)
    targets = targets_of(lab, task)
    strangers = results(lab, submit(lab, "knock", stations=THREE, image=image, targets=targets))
    assert len(strangers) == 3
    for one in strangers:
        assert len(one) == 3
        assert all(not answer.startswith("echo") for answer in one), one
    assert all(entry["answer"] == "echo:hi" for one in results(lab, task) for entry in one)


def test_nothing_is_left_of_ended_runs(lab: Lab, image: str) -> None:
    deadline = time.monotonic() + 15
    while any(left := {station: book_of(lab, station) for station in THREE}.values()):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
