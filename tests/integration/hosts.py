"""Faults and visitors: hosts that die, come back, or were never part of the lab."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests
import yaml

from overlay.lab import Lab
from overlay.lab.engine import find_engine
from overlay.lab.hosts import HostPlan, start_host, wait_for
from overlay.lab.network import host_address
from overlay.lab.state import HOSTS_DATA

NODE_CONFIG = "/root/.config/vantage6/node/{station}.yaml"


def kill(lab: Lab, host: str) -> None:
    """End a host as a power cut would."""
    lab.docker("kill", lab.container(host))


def start_again(lab: Lab, host: str) -> None:
    """Power a killed host on and wait until its node is online."""
    lab.docker("start", lab.container(host))
    wait_nodes_online(lab, [host])


def wait_nodes_online(lab: Lab, stations: Sequence[str], seconds: float = 90) -> None:
    """Wait until the server sees these stations' nodes and Swarm's manager sees them ready."""
    deadline = time.monotonic() + seconds
    wanted = set(stations)
    while True:
        nodes = lab.client().node.list(per_page=250)["data"]
        by_id = {organization: name for name, organization in lab.state.organizations.items()}
        online = {by_id.get(n["organization"]["id"]) for n in nodes if n["status"] == "online"}
        swarm = lab.exec(
            "central",
            ["docker", "node", "ls", "--format", "{{.Hostname}} {{.Status}}"],
            check=False,
        ).stdout
        ready = {line.split()[0] for line in swarm.splitlines() if line.endswith("Ready")}
        if wanted <= online and wanted <= ready:
            return
        assert time.monotonic() < deadline, f"online: {online}, ready: {ready}"
        time.sleep(0.5)


@contextmanager
def visitor(lab: Lab, name: str = "visitor", place: int = 60) -> Iterator[str]:
    """One more bare host with Docker on the outer network, not part of anything."""
    engine = find_engine()
    assert engine is not None
    image = lab.docker("inspect", "-f", "{{.Config.Image}}", lab.container("central"))
    peers = {host: facts["address"] for host, facts in lab.state.hosts.items()}
    address = host_address(lab.state.subnet, place)
    start_host(engine, image.stdout.strip(), HostPlan(name, address, {**peers, name: address}))
    lab.state.hosts[name] = {"container": f"v6lab-{name}", "address": address}
    try:
        wait_for(engine, name, "docker version", 60, "the Docker Engine")
        yield name
    finally:
        del lab.state.hosts[name]
        lab.docker("rm", "--force", "--volumes", f"v6lab-{name}")
        lab.docker(
            "run",
            "--rm",
            "-v",
            f"{HOSTS_DATA}:/data",
            "--network",
            "none",
            image.stdout.strip(),
            "rm",
            "-rf",
            f"/data/{name}",
        )


def outsider_config(lab: Lab) -> str:
    """A node configuration with the credentials of a node of another collaboration."""
    api = Admin(lab)
    outsider = lab.state.organizations["outsider"]
    nodes = api.get("/node", organization_id=outsider)["data"]
    return with_key(lab, api.post("/recover/node", {"id": nodes[0]["id"]})["api_key"])


@contextmanager
def new_member(lab: Lab, name: str) -> Iterator[str]:
    """An organization that is new in the lab's collaboration: its node configuration."""
    api = Admin(lab)
    members = f"/collaboration/{lab.state.collaboration_id}/organization"
    organization = api.post("/organization", {"name": name})["id"]
    api.post(members, {"id": organization})
    body = {"collaboration_id": lab.state.collaboration_id, "organization_id": organization}
    node = api.post("/node", body)
    try:
        yield with_key(lab, node["api_key"])
    finally:
        api.delete(f"/node/{node['id']}")
        api.delete(members, {"id": organization})


def with_key(lab: Lab, key: str) -> str:
    """A joined station's node configuration with another node's API key."""
    config = yaml.safe_load(station_config(lab, lab.state.stations[0]))
    return str(yaml.safe_dump({**config, "api_key": key}))


class Admin:
    """The vantage6 server's API as its administrator."""

    def __init__(self, lab: Lab) -> None:
        self._url = f"{lab.state.server_url}{lab.state.api_path}"
        login = {key: lab.state.admin[key] for key in ("username", "password")}
        token = requests.post(f"{self._url}/token/user", json=login, timeout=10).json()
        self._headers = {"Authorization": f"Bearer {token['access_token']}"}

    def get(self, path: str, **params: object) -> Any:
        answer = requests.get(self._url + path, params=params, headers=self._headers, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def post(self, path: str, body: dict[str, object]) -> Any:
        answer = requests.post(self._url + path, json=body, headers=self._headers, timeout=10)
        assert answer.ok, answer.text
        return answer.json()

    def delete(self, path: str, body: dict[str, object] | None = None) -> None:
        answer = requests.delete(self._url + path, json=body, headers=self._headers, timeout=10)
        assert answer.ok, answer.text


def station_config(lab: Lab, station: str) -> str:
    """The node configuration of a joined station, API key included."""
    return lab.exec(station, ["cat", NODE_CONFIG.format(station=station)]).stdout
