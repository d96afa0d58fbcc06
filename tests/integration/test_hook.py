"""Containers have the overlay before their first instruction; others never get it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from overlay.errors import ResultError
from overlay.lab import Lab

from .support import result_of, run_logs, submit

pytestmark = pytest.mark.lab

PROXY = "unix:///run/v6-overlay/proxy/docker.sock"
# The very first thing this image does is to print which addresses and files it sees.
FIRST_INSTRUCTION = (
    'ENTRYPOINT ["/bin/sh", "-c", "echo FIRST $(grep -c . /proc/net/dev) '
    "$(ls /run/v6-overlay | tr '\\\\n' ' '); grep -o 'eth[0-9]' /proc/net/dev | tr '\\\\n' ' '; "
    'exec python3 -m algorithms.run"]'
)


@pytest.fixture(scope="module")
def probe_image(lab: Lab) -> Iterator[str]:
    """The sums image with a first instruction that reports what it finds, allowed by digest."""
    image = lab.state.image
    probe = image.rsplit(":", 1)[0] + ":probe"
    lab.exec(
        "central",
        ["docker", "build", "-q", "-t", probe, "-"],
        input=f"FROM {image}\n{FIRST_INSTRUCTION}\n",
    )
    lab.exec("central", ["docker", "push", "-q", probe])
    for station in lab.state.stations:
        lab.exec(station, ["docker", "pull", "-q", probe])
        lab.exec(station, ["v6-overlay", "image", "allow", probe])
    yield probe
    for station in lab.state.stations:
        lab.exec(station, ["v6-overlay", "image", "remove", probe])


def first_lines(lab: Lab, task: int) -> dict[str, str]:
    return {
        station: next(
            (line for line in (record["log"] or "").splitlines() if line.startswith("FIRST")), ""
        )
        for station, record in run_logs(lab, task).items()
    }


def test_attached_before_the_first_instruction_20_of_20(lab: Lab, probe_image: str) -> None:
    stations = lab.state.stations
    seen: list[str] = []
    while len(seen) < 20:
        task = submit(lab, "dk_secure_sum", stations=stations, image=probe_image)
        result_of(lab, task)
        seen += first_lines(lab, task).values()
    attached = [line for line in seen if "roster.json" in line and "identity.pem" in line]
    assert len(attached) == len(seen) >= 20
    # Header (2), loopback, the node's own network and the overlay.
    assert all(int(line.split()[1]) >= 5 for line in attached), seen


def test_an_image_off_the_list_gets_nothing_and_says_why(lab: Lab) -> None:
    """The twin: same label, same content, but not on the allow-list."""
    image = lab.state.image
    stranger = image.rsplit(":", 1)[0] + ":stranger"
    lab.exec(
        "central",
        ["docker", "build", "-q", "-t", stranger, "-"],
        input=f"FROM {image}\n{FIRST_INSTRUCTION}\nENV STRANGER=1\n",
    )
    lab.exec("central", ["docker", "push", "-q", stranger])
    stations = lab.state.stations[:3]
    task = submit(lab, "dk_secure_sum", stations=stations, image=stranger)
    with pytest.raises(ResultError, match=r"NotAdmitted"):
        result_of(lab, task)
    for line in first_lines(lab, task).values():
        assert "refused.json" in line
        assert "identity" not in line
        assert int(line.split()[1]) == 4, line
    logs = lab.exec(stations[0], ["journalctl", "-u", "v6-overlay-station", "--no-pager"]).stdout
    assert "allow-list" in logs


def test_other_docker_calls_pass_untouched(lab: Lab) -> None:
    """The proxy's answers equal the engine's own, streams and large bodies included."""
    station, image = "hospital-1", lab.state.image
    docker = ["docker", "-H", PROXY]
    direct = lab.exec(station, ["docker", "info", "-f", "{{.ID}}"]).stdout
    assert lab.exec(station, [*docker, "info", "-f", "{{.ID}}"]).stdout == direct
    echo = lab.exec(
        station,
        [*docker, "run", "--rm", "-i", "--network", "none", "--entrypoint", "cat", image],
        input="through and back",
    )
    assert echo.stdout == "through and back"
    built = lab.exec(
        station,
        [
            "sh",
            "-c",
            f"mkdir -p /root/ctx && head -c 60000000 /dev/urandom > /root/ctx/blob && "
            f"printf 'FROM {image}\\nCOPY blob /blob\\nRUN sha256sum /blob\\n' "
            f"> /root/ctx/Dockerfile && sha256sum /root/ctx/blob && "
            f"docker -H {PROXY} build --network none -t big /root/ctx",
        ],
    ).stdout
    digest = built.split()[0]
    assert built.count(digest) == 2
    saved = lab.exec(
        station,
        [
            "sh",
            "-c",
            f"docker -H {PROXY} save big | docker -H {PROXY} load; "
            f"docker -H {PROXY} rmi big; rm -r /root/ctx",
        ],
    ).stdout
    assert "Loaded image" in saved


def test_proxy_restarts_without_failing_calls(lab: Lab) -> None:
    station = "hospital-1"
    script = (
        "fails=0; for i in $(seq 1 40); do "
        f"docker -H {PROXY} version >/dev/null 2>&1 || fails=$((fails+1)); "
        "[ $i = 10 ] && systemctl restart --no-block v6-overlay-station.service; done; "
        "echo fails=$fails"
    )
    assert "fails=0" in lab.exec(station, ["sh", "-c", script]).stdout


def test_run_directories_are_gone_when_runs_have_ended(lab: Lab) -> None:
    for station in lab.state.stations:
        listing = lab.exec(station, ["sh", "-c", "ls /run/v6-overlay/runs 2>/dev/null || true"])
        assert listing.stdout.split() == []


def test_an_unlabelled_container_is_not_touched(lab: Lab) -> None:
    station, image = "hospital-1", lab.state.image
    lab.exec(
        station,
        [
            "docker",
            "-H",
            PROXY,
            "create",
            "--name",
            "plain",
            "--label",
            "vantage6-type=algorithm",
            "--label",
            "org.v6-overlay.algorithm=0",
            image,
        ],
    )
    try:
        found = json.loads(lab.exec(station, ["docker", "inspect", "plain"]).stdout)[0]
        assert not any("v6-overlay" in name for name in found["NetworkSettings"]["Networks"])
        assert not found["HostConfig"]["Binds"]
    finally:
        lab.exec(station, ["docker", "rm", "-f", "plain"])
