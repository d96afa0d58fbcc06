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
    lab.exec(station, ["sed", "-i", f"s/address_book: {before}/address_book: {after}/", SETTING])
    found = lab.exec(station, ["grep", "-c", f"address_book: {after}", SETTING]).stdout
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


def ports(lab: Lab, task: int, deadline: float) -> list[list[Any]]:
    """The addresses that a task's runs have in the book, as soon as all are there."""
    client = lab.client()
    runs = [run["id"] for run in client.run.from_task(task)["data"]]
    while time.monotonic() < deadline:
        book = [
            [port, run]
            for run in runs
            for port in client.request("port", params={"run_id": run}).get("data", [])
        ]
        if len(book) == len(runs):
            return book
        time.sleep(0.3)
    raise AssertionError("the address book did not fill")


def test_two_tasks_at_once_reach_their_own_peers(lab: Lab, image: str) -> None:
    tasks = [submit(lab, "echo", stations=THREE, image=image, peers=2) for _ in range(2)]
    seen: list[tuple[str, int]] = []
    for task in tasks:
        answers = results(lab, task)
        assert len(answers) == 3
        for one in answers:
            assert [entry["answer"] for entry in one] == ["echo:hi"] * 2, one
        seen += {(entry["ip"], entry["port"]) for one in answers for entry in one}
    # One address for each station, a port of its own for each run.
    assert len(set(seen)) == 6
    assert len({ip for ip, _ in seen}) == 3


def test_another_task_is_not_let_in(lab: Lab, image: str) -> None:
    """The twin of the test above: same image, same stations, same moment, but another task."""
    task = submit(lab, "echo", stations=THREE, image=image, peers=2, linger=25)
    book = ports(lab, task, time.monotonic() + 60)
    addresses = {
        node["organization"]["id"]: node["ip"] for node in lab.client().node.list()["data"]
    }
    organizations = {
        run["id"]: run["organization"]["id"] for run in lab.client().run.from_task(task)["data"]
    }
    targets = [[addresses[organizations[run]], port["port"]] for port, run in book]
    strangers = results(lab, submit(lab, "knock", stations=THREE, image=image, targets=targets))
    assert len(strangers) == 3
    for one in strangers:
        assert len(one) == 3
        assert all(not answer.startswith("echo") for answer in one), one
    assert all(entry["answer"] == "echo:hi" for one in results(lab, task) for entry in one)


def test_nothing_is_left_of_ended_runs(lab: Lab, image: str) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        left = [
            lab.exec(
                station,
                ["sh", "-c", "cat /run/v6-overlay/addressbook.json 2>/dev/null"],
                check=False,
            ).stdout
            for station in THREE
        ]
        if not any("target" in text for text in left):
            return
        time.sleep(0.5)
    raise AssertionError(left)
