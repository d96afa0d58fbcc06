"""A lab host is a real host: systemd, sshd, its own engine; and the lab's promises hold."""

from __future__ import annotations

import json
import stat
import subprocess
import time

import pytest

from overlay.errors import HostError, UsageError
from overlay.lab import Lab
from overlay.lab.state import state_file

HOSTS = ["central", "hospital-1", "hospital-2", "hospital-3"]


def test_every_host_runs_systemd_and_its_own_engine(lab: Lab) -> None:
    engines = set()
    for host in HOSTS:
        assert lab.exec(host, ["cat", "/proc/1/comm"]).stdout.strip() == "systemd"
        engines.add(lab.exec(host, ["docker", "info", "--format", "{{.Name}}"]).stdout.strip())
    assert engines == set(HOSTS)


def test_no_unit_has_failed(lab: Lab) -> None:
    for host in HOSTS:
        failed = lab.exec(host, ["systemctl", "--failed", "--no-legend", "--plain"]).stdout
        assert failed.strip() == "", host


def test_ssh_opens_every_host(lab: Lab) -> None:
    for host in HOSTS:
        done = subprocess.run(
            [*lab.ssh_argv(host), "hostname"], capture_output=True, text=True, timeout=30
        )
        assert done.stdout.strip() == host, done.stderr


def test_the_outer_network_leads_nowhere(lab: Lab) -> None:
    # The hosts have a default route, as real ones do; the machine forwards nothing of it.
    routes = json.loads(subprocess.check_output(["ip", "-json", "route", "show", "default"]))
    if not routes:
        pytest.skip("this machine itself has no way out")
    ping = ["ping", "-c", "2", "-i", "0.2", "-W", "1", routes[0]["gateway"]]
    assert lab.exec("hospital-1", ping, check=False).returncode != 0


def test_every_node_is_online_with_its_image(lab: Lab) -> None:
    assert all(row["node"] == "active" for row in lab.status() if row["host"] != "central")
    for station in lab.state.stations:
        argv = ["docker", "image", "inspect", "--format", "{{.RepoDigests}}", lab.state.image]
        assert lab.state.image_digest in lab.exec(station, argv).stdout


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    before = lab.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "v6lab-central")
    began = time.monotonic()
    again = Lab.up(len(lab.state.stations))
    assert time.monotonic() - began < 10
    after = again.docker("inspect", "--format", "{{.Id}} {{.State.StartedAt}}", "v6lab-central")
    assert before.stdout == after.stdout


def test_the_state_file_is_private(lab: Lab) -> None:
    assert stat.S_IMODE(state_file().stat().st_mode) == 0o600


def test_exec_hands_over_input_and_names_what_fails(lab: Lab) -> None:
    assert lab.exec("central", ["cat"], input="a secret").stdout == "a secret"
    with pytest.raises(HostError):
        lab.exec("central", ["false"])
    with pytest.raises(UsageError, match="no host"):
        lab.exec("nowhere", ["true"])


def test_a_killed_station_comes_back(lab: Lab) -> None:
    lab.docker("kill", lab.container("hospital-3"))
    lab.docker("start", lab.container("hospital-3"))
    deadline = time.monotonic() + 60
    query = ["systemctl", "is-active", "docker", "vantage6-node", "v6-overlay-wireguard"]
    while True:
        states = lab.exec("hospital-3", query, check=False).stdout.split()
        if states == ["active"] * 3:
            break
        assert time.monotonic() < deadline, states
        time.sleep(0.5)
