"""Which containers get the overlay, what they find, and how long it stays."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import HostError, NotAdmitted, OverlayError
from overlay.station import admission, runs
from overlay.station.admission import Image, Membership, Task
from overlay.station.config import Policy
from overlay.station.gate import Gate
from overlay.station.proxy import Change
from overlay.station.runs import Runs

DIGEST = "central:5000/sums@sha256:" + "a" * 64
ID = "sha256:" + "b" * 64
IMAGE = Image(ID, (DIGEST,), {"org.v6-overlay.algorithm": "1"})
TASK = Task(12, "central:5000/sums:1", 1, {33: 2, 34: 3, 35: 4})
ME = Membership(1, "hospital-2", 3, {2: "hospital-1", 3: "hospital-2", 4: "hospital-3"})
NAME = "vantage6-hospital-2-run-34"


def body(**changes: Any) -> dict[str, Any]:
    value = {
        "Image": TASK.image,
        "Labels": {"vantage6-type": "algorithm", "node": "hospital-2", "run_id": "34"},
        "HostConfig": {"Binds": ["vol:/mnt/data:rw"], "NetworkMode": "vantage6-user-net"},
    }
    return {**value, **changes}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def create(name: str = NAME, **changes: Any) -> admission.Create:
    made = admission.algorithm_create(name, json.dumps(body(**changes)).encode())
    assert made is not None
    return made


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"Labels": null, "Image": "x"}',
        b'{"Labels": {"vantage6-type": "node"}, "Image": "x"}',
        b'{"Labels": {"vantage6-type": "algorithm-helper", "run_id": "1"}, "Image": "x"}',
        b'{"Labels": {"vantage6-type": "algorithm"}, "Image": "x"}',
    ],
)
def test_other_creates_are_left_alone(raw: bytes) -> None:
    assert admission.algorithm_create(NAME, raw) is None


def test_a_proper_create_is_recognised() -> None:
    assert admission.checked_run(create(), "v6-overlay-c1") == 34


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (NAME, {"Labels": {"vantage6-type": "algorithm", "run_id": "../../etc"}}),
        (NAME, {"Labels": {"vantage6-type": "algorithm", "run_id": "34\n"}}),
        (NAME, {"Labels": {"vantage6-type": "algorithm", "run_id": "-1"}}),
        (NAME, {"Labels": {"vantage6-type": "algorithm", "run_id": "٣"}}),
        ("vantage6-hospital-2-run-35", {}),
        ("other", {}),
        ("", {}),
        (NAME + "\n", {}),
        (NAME, {"HostConfig": {"NetworkMode": "container:abc"}}),
        (NAME, {"HostConfig": {"NetworkMode": "host"}}),
        (NAME, {"HostConfig": []}),
        (NAME, {"HostConfig": {"Binds": ["/evil:/run/v6-overlay:ro"]}}),
        (NAME, {"HostConfig": {"Binds": ["/evil:/run//v6-overlay/../v6-overlay/x"]}}),
        (NAME, {"HostConfig": {"Mounts": [{"Target": "/run"}]}}),
        (NAME, {"HostConfig": {"Tmpfs": {"/run/v6-overlay": ""}}}),
        (NAME, {"Volumes": {"/run/v6-overlay/": {}}}),
        (NAME, {"HostConfig": {"Tmpfs": {"//run/v6-overlay": ""}}}),
        (NAME, {"HostConfig": {"Binds": ["/run/v6-overlay/runs/33:/mnt/x:ro"]}}),
        (NAME, {"HostConfig": {"Binds": ["/var/run/v6-overlay/runs:/mnt/x"]}}),
        (NAME, {"HostConfig": {"Binds": ["//run:/mnt/x"]}}),
        (NAME, {"HostConfig": {"Binds": ["/:/mnt/x:ro"]}}),
        (NAME, {"HostConfig": {"Binds": ["/var/lib/v6-overlay/station:/mnt/x"]}}),
        (NAME, {"HostConfig": {"Mounts": [{"Source": "/var/lib/../lib", "Target": "/mnt/x"}]}}),
        (NAME, {"HostConfig": {"VolumesFrom": ["vantage6-hospital-2-run-33"]}}),
        (NAME, {"HostConfig": {"NetworkMode": "v6-overlay-c1"}}),
        (NAME, {"NetworkingConfig": {"EndpointsConfig": {"v6-overlay-c1": {}}}}),
    ],
)
def test_shapes_that_are_refused(name: str, changes: dict[str, Any]) -> None:
    if "HostConfig" in changes and changes["HostConfig"] == []:
        changes = {"HostConfig": ["x"]}
    with pytest.raises(NotAdmitted):
        admission.checked_run(create(name, **changes), "v6-overlay-c1")


@pytest.mark.parametrize("allowed", [[DIGEST], [ID], ["other", ID]])
def test_allow_list_by_digest(allowed: list[str]) -> None:
    admission.check_image(IMAGE, allowed, "sums")


@pytest.mark.parametrize(
    "allowed",
    [[], ["central:5000/sums:1"], ["central:5000/sums"], [DIGEST[:-1] + "c"], ["sha256:"], ["*"]],
)
def test_default_deny_names_the_command(allowed: list[str]) -> None:
    with pytest.raises(NotAdmitted) as caught:
        admission.check_image(IMAGE, allowed, "sums")
    assert caught.value.next_step.endswith(f"v6-overlay image allow {DIGEST}")


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (Task(12, TASK.image, 2, TASK.runs), "collaboration 2"),
        (Task(12, TASK.image, 1, {33: 2, 35: 4}), "run 34"),
        (Task(12, TASK.image, 1, {34: 2, 35: 4}), "run 34"),
        (Task(12, "other:1", 1, TASK.runs), "other:1"),
        (Task(12, TASK.image, 1, {**TASK.runs, 36: 9}), "Far Clinic"),
        (Task(12, TASK.image, 1, {**TASK.runs, 36: 8}), "organization 8"),
        (Task(12, TASK.image, 1, {**TASK.runs, 36: 4}), "two runs"),
    ],
)
def test_tasks_that_are_refused(task: Task, reason: str) -> None:
    with pytest.raises(NotAdmitted, match=reason):
        admission.check_task(create(), 34, task, ME, {9: "Far Clinic"})


def test_roster_holds_all_members_sorted_by_station() -> None:
    admission.check_task(create(), 34, TASK, ME, {})
    roster = admission.roster(34, TASK, ME)
    assert [member["station"] for member in roster["members"]] == [
        "hospital-1",
        "hospital-2",
        "hospital-3",
    ]
    assert roster["members"][1] == {
        "station": "hospital-2",
        "organization_id": 3,
        "run_id": 34,
        "hostname": "run-34.task-12.hospital-2.c1.v6-overlay.internal",
    }
    assert (roster["version"], roster["port"], roster["station"]) == (1, 7100, "hospital-2")


def test_the_body_gains_one_bind_and_a_quick_resolver() -> None:
    changed = json.loads(admission.with_overlay(create(), "/run/v6-overlay/runs/34"))
    assert changed["HostConfig"]["Binds"] == [
        "vol:/mnt/data:rw",
        "/run/v6-overlay/runs/34:/run/v6-overlay:ro",
    ]
    assert changed["HostConfig"]["DnsOptions"] == ["timeout:1", "attempts:1"]
    assert {**changed, "HostConfig": 0} == {**body(), "HostConfig": 0}


@pytest.mark.parametrize(
    ("user", "expected"),
    [("", (0, 0)), ("root", (0, 0)), ("1000", (1000, 0)), ("1000:7", (1000, 7))],
)
def test_owner_of_the_key(user: str, expected: tuple[int, int]) -> None:
    assert admission.owner(create(), Image(ID, (), {}, user)) == expected


def test_a_named_user_is_refused() -> None:
    with pytest.raises(NotAdmitted):
        admission.owner(create(User="nobody"), IMAGE)


# --- run directories ---------------------------------------------------------------------------


def test_run_directory_modes_and_end(tmp_path: Path) -> None:
    kept = Runs(tmp_path)
    directory = kept.admit(34, {"run_id": 34}, {"identity.key": b"secret"}, (0, 0))
    assert oct(directory.stat().st_mode & 0o777) == "0o700"
    assert oct((directory / "identity.key").stat().st_mode & 0o777) == "0o600"
    kept.belongs(34, "new")
    assert not kept.ended(34, "old")  # the retry's predecessor
    assert directory.exists()
    assert kept.ended(34, "new")
    assert not directory.exists()


def test_restart_takes_over_living_runs_only(tmp_path: Path) -> None:
    first = Runs(tmp_path)
    first.admit(1, {}, {}, (0, 0))
    first.admit(2, {}, {}, (0, 0))
    second = Runs(tmp_path)
    assert list(second.keep(lambda: {2: "c2", 3: "c3"})) == [1]
    assert second.present() == [2]
    assert second.ended(2, "c2")


def test_runs_on_a_disk_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_filesystem", lambda path: "ext4")
    with pytest.raises(OverlayError, match="in memory"):
        Runs(tmp_path).prepare()
    monkeypatch.setattr(runs, "_filesystem", lambda path: "tmpfs")
    Runs(tmp_path).prepare()


# --- the gate -------------------------------------------------------------------------------


class Fakes:
    """Station, server and engine in one."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.images = {TASK.image: IMAGE}
        self.allowed: tuple[str, ...] = (DIGEST,)
        self.made = ID
        self.connect_error: OverlayError | None = None
        self.server_error: OverlayError | None = None
        self.known = ME

    def policy(self) -> Policy:
        return Policy(images=self.allowed)

    def membership(self) -> Membership:
        return self.known

    def refresh(self) -> Membership:
        self.calls.append("refresh")
        self.known = ME
        return ME

    def network(self) -> str:
        return "v6-overlay-c1"

    def identity(self, task_id: int, run_id: int) -> dict[str, bytes]:
        return {"identity.pem": b"p", "identity.key": b"k", "ca.pem": b"c"}

    def task_of(self, run_id: int) -> Task:
        if self.server_error:
            raise self.server_error
        return TASK

    def organization_name(self, organization_id: int) -> str:
        return "Far Clinic"

    def image(self, reference: str) -> Image | None:
        return self.images.get(reference)

    def inspect(self, container: str) -> dict[str, Any]:
        return {"Image": self.made}

    def connect(self, container: str, network: str, alias: str) -> None:
        self.calls.append(f"connect {container} {network} {alias}")
        if self.connect_error:
            raise self.connect_error

    def remove(self, container: str) -> None:
        self.calls.append(f"remove {container}")


def judge(fakes: Fakes, tmp_path: Path, **changes: Any) -> tuple[Change | None, Runs]:
    kept = Runs(tmp_path)
    gate = Gate(fakes, fakes, fakes, kept)  # type: ignore[arg-type]
    raw = json.dumps(body(**changes)).encode()
    return asyncio.run(gate(NAME, raw)), kept  # type: ignore[arg-type]


def test_an_admitted_run_is_attached_before_the_answer(tmp_path: Path) -> None:
    fakes = Fakes()
    change, kept = judge(fakes, tmp_path)
    assert change is not None
    assert names(tmp_path / "34") == [
        "ca.pem",
        "identity.key",
        "identity.pem",
        "roster.json",
    ]
    asyncio.run(change.created("c1"))  # type: ignore[arg-type]
    host = "run-34.task-12.hospital-2.c1.v6-overlay.internal"
    assert fakes.calls == [f"connect c1 v6-overlay-c1 {host}"]
    assert kept.container(34) == "c1"


@pytest.mark.parametrize("images", [{}, {TASK.image: Image(ID, (DIGEST,), {})}])
def test_images_that_do_not_ask_are_left_alone(tmp_path: Path, images: dict[str, Image]) -> None:
    fakes = Fakes()
    fakes.images = images
    assert judge(fakes, tmp_path)[0] is None


def test_a_refused_run_finds_only_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fakes = Fakes()
    fakes.allowed = ()
    change, _ = judge(fakes, tmp_path)
    assert change is not None
    assert names(tmp_path / "34") == ["refused.json"]
    reason = json.loads((tmp_path / "34" / "refused.json").read_text())
    assert reason["error"] == "NotAdmitted"
    assert "allow-list" in reason["what"]
    assert "allow-list" in caplog.text
    asyncio.run(change.created("c1"))  # type: ignore[arg-type]
    assert fakes.calls == []  # no network


def test_a_server_that_is_away_is_a_refusal_with_its_reason(tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.server_error = HostError("the vantage6 server cannot be reached")
    judge(fakes, tmp_path)
    assert names(tmp_path / "34") == ["refused.json"]


def test_a_station_that_joined_a_moment_ago_is_found(tmp_path: Path) -> None:
    fakes = Fakes()
    fakes.known = Membership(1, "hospital-2", 3, {3: "hospital-2"})
    judge(fakes, tmp_path)
    assert fakes.calls == ["refresh"]
    assert (tmp_path / "34" / "roster.json").exists()


@pytest.mark.parametrize("fault", ["connect", "image"])
def test_what_cannot_be_attached_is_removed(tmp_path: Path, fault: str) -> None:
    fakes = Fakes()
    if fault == "connect":
        fakes.connect_error = HostError("the network is away")
    else:
        fakes.made = "sha256:" + "c" * 64
    change, kept = judge(fakes, tmp_path)
    assert change is not None
    with pytest.raises(NotAdmitted, match="could not be attached"):
        asyncio.run(change.created("c1"))  # type: ignore[arg-type]
    assert fakes.calls[-1] == "remove c1"
    assert kept.present() == []


def test_a_create_of_evil_shape_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotAdmitted):
        judge(Fakes(), tmp_path, HostConfig={"NetworkMode": "container:x"})
    assert names(tmp_path) == []
