"""The plug-in in a real vantage6 server, as deploy/compose.yml starts it: who may enrol."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from pytest_docker.plugin import Services

from overlay.drivers.vantage6_api import Vantage6Api
from overlay.errors import HostError, Vantage6Refused
from overlay.lab import Lab, wheels
from overlay.lab.engine import find_engine
from overlay.manager import server
from tests.unit.manager_world import Candidate, World

pytestmark = pytest.mark.lab
IMAGE = "v6-overlay-test/server"
KEYS = {name: str(uuid.uuid4()) for name in ("hospital-1", "outsider")}
PASSWORD = "Root-of-all-1!"  # of the server that this test makes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fixtures() -> dict[str, object]:
    empty = dict.fromkeys(("address1", "address2", "zipcode", "country", "public_key"), "")
    organizations = [{"name": name, "domain": "x", **empty} for name in ["Boss", *KEYS]]
    user = {"username": "admin", "firstname": "a", "lastname": "b", "email": "a@example.org"}
    organizations[1]["users"] = [user | {"password": PASSWORD}]  # type: ignore[assignment]
    return {
        "organizations": organizations,
        "collaborations": [
            {
                "name": name,
                "encrypted": False,
                "participants": [{"name": station, "api_key": KEYS[station]}],
            }
            for name, station in (("heart", "hospital-1"), ("elsewhere", "outsider"))
        ],
    }


@pytest.fixture(scope="session")
def server_data(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An image of the server, its configuration and its database; removed with the containers."""
    directory = tmp_path_factory.mktemp("server")
    config = {
        "description": "test",
        "ip": "127.0.0.1",
        "port": free_port(),
        "api_path": "/api",
        "uri": "sqlite:////data/server.sqlite",
        "allow_drop_all": False,
        "jwt_secret_key": "x" * 40,
        "logging": {
            "level": "WARNING",
            "file": "server.log",
            "use_console": True,
            "backup_count": 1,
            "max_size": 1024,
            "format": "%(message)s",
            "datefmt": "%H",
            "loggers": [],
        },
    }
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "entities.yaml").write_text(yaml.safe_dump(fixtures()))
    context = tmp_path_factory.mktemp("context")
    shutil.copy(wheels.checkout() / "deploy" / "server" / "Dockerfile", context)
    shutil.copytree(wheels.own_wheel(), context / "own")
    ask = ["docker", "ps", "--filter=label=vantage6-type=node", "--format={{.Image}}"]
    base = lab.exec(lab.state.stations[0], ask).stdout.strip()
    lab.docker(
        *("build", "--quiet", "--network=none", f"--build-arg=BASE_IMAGE={base}"),
        *("--tag", IMAGE, str(context)),
    )
    load = ["/opt/vantage6/bin/vserver-local", "import", "-c", "/data/config.yaml"]
    lab.docker(
        *("run", "--rm", "--network=none", f"--volume={directory}:/data", IMAGE),
        *(*load, "/data/entities.yaml"),
    )
    yield directory
    lab.docker("rmi", IMAGE)


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(wheels.checkout() / "deploy" / "compose.yml")


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    return "docker-compose"


@pytest.fixture(scope="session")
def docker_setup(lab: Lab, server_data: Path) -> Iterator[list[str]]:
    """`up` on the lab's engine, with what the compose file asks for."""
    port = yaml.safe_load((server_data / "config.yaml").read_text())["port"]
    wanted = {
        "SERVER_IMAGE": IMAGE,
        "SERVER_DATA": str(server_data),
        "SERVER_ADDRESS": "127.0.0.1",
        "SERVER_PORT": str(port),
        "MANAGER_RUN": str(server_data),
    }
    engine = find_engine()
    assert engine is not None
    if engine.own:
        wanted["DOCKER_HOST"] = engine.argv()[2]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in wanted.items():
            patch.setenv(name, value)
        yield ["up -d"]


@pytest.fixture(scope="session")
def site(server_data: Path, docker_services: Services) -> tuple[Path, str]:
    url = f"http://127.0.0.1:{os.environ['SERVER_PORT']}/api"

    def answers() -> bool:
        try:
            return requests.get(f"{url}/version", timeout=2).ok
        except requests.RequestException:
            return False

    docker_services.wait_until_responsive(check=answers, timeout=60, pause=0.1)
    return server_data, url


@pytest.fixture
def world(site, tmp_path):
    directory, url = site
    world = World(tmp_path, url)
    local = ("127.0.0.1", 0)
    servers = server.build(
        world.service,
        unix_path=directory / "manager.sock",
        bearer_address=local,
        agent_address=local,
    )
    for item in servers:
        item.prepare()
        threading.Thread(target=item.serve, daemon=True).start()
    world.url = f"{url}/overlay"
    world.own = f"https://127.0.0.1:{servers[1].bind_addr[1]}/api/overlay"
    world.ca = str(world.authority.manager_ca)
    yield world
    for item in servers:
        item.stop()


def tokens(url: str) -> dict[str, str]:
    """A node's, the other collaboration's node's, a user's and an algorithm container's token."""
    with Vantage6Api(url) as api:
        found = {name: api.node_token(key) for name, key in KEYS.items()}
    body = {"username": "admin", "password": PASSWORD}
    found["user"] = requests.post(f"{url}/token/user", json=body, timeout=10).json()["access_token"]
    bearer = {"Authorization": f"Bearer {found['user']}"}
    node = requests.get(f"{url}/node", headers=bearer, timeout=10).json()["data"]
    organization = next(n for n in node if n["name"].startswith("hospital-1"))["organization"]["id"]
    task = {
        "name": "t",
        "image": "i",
        "collaboration_id": 1,
        "organizations": [{"id": organization, "input": ""}],
    }
    made = requests.post(f"{url}/task", json=task, headers=bearer, timeout=10).json()
    ask = requests.post(
        f"{url}/token/container",
        json={"task_id": made["id"], "image": "i"},
        headers={"Authorization": f"Bearer {found['hospital-1']}"},
        timeout=10,
    )
    found["container"] = ask.json()["container_token"]
    return found


def post(world, path, token, body, *, own=False):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    base = world.own if own else world.url
    verify = world.ca if own else True
    return requests.post(base + path, json=body, headers=headers, timeout=20, verify=verify)


@pytest.mark.parametrize("own", [False, True], ids=["plug-in", "own port"])
def test_only_the_node_itself_enrols(site, world, own):
    bearer = tokens(site[1])
    one = Candidate("hospital-1", 2)
    body = one.body(world.token())
    for kind in ("user", "container", "outsider"):
        refused = post(world, "/enrol", bearer[kind], body, own=own)
        assert (refused.status_code, refused.json()["error"]) in {
            (403, "EnrolmentRefused"),
            (403, "Vantage6Refused"),
        }
    assert post(world, "/enrol", "", body, own=own).status_code in {401, 403}
    assert post(world, "/enrol", "garbage", body, own=own).status_code in {401, 403, 422}
    assert world.registry.pending() == []
    answer = post(world, "/enrol", bearer["hospital-1"], body, own=own)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["station"], answer.json()["collaboration_id"]) == ("hospital-1", 1)
    assert world.mesh[0].endpoint == "127.0.0.1:51820"
    world.swarm.join("n1", answer.json()["wireguard"]["address"].split("/")[0])
    confirm = {"token": body["token"], "swarm_node_id": "n1"}
    done = post(world, "/enrol/confirm", bearer["hospital-1"], confirm, own=own)
    assert done.json()["station"] == "hospital-1"
    again = post(world, "/enrol", bearer["hospital-1"], body, own=own)
    assert "was used" in again.json()["what"]


def test_a_forged_caller_header_is_nothing(site, world):
    bearer = tokens(site[1])
    one = Candidate("hospital-1", 2)
    headers = {
        "Authorization": f"Bearer {bearer['outsider']}",
        "X-V6-Overlay-Caller": '{"node_id":1,"organization_id":2,"organization":"hospital-1",'
        '"collaboration_id":1}',
    }
    body = one.body(world.token())
    refused = requests.post(f"{world.url}/enrol", json=body, headers=headers, timeout=10)
    assert refused.status_code == 403
    assert "another station" in refused.json()["what"]


@pytest.mark.parametrize("own", [False, True], ids=["plug-in", "own port"])
def test_the_collaboration_ca_is_for_its_members(site, world, own):
    bearer = tokens(site[1])
    base, verify = (world.own, world.ca) if own else (world.url, True)

    def ask(kind, collaboration):
        headers = {"Authorization": f"Bearer {bearer[kind]}"}
        url = f"{base}/collaboration/{collaboration}/ca"
        return requests.get(url, headers=headers, timeout=10, verify=verify)

    assert ask("user", 1).content == world.authority.collaboration_ca(1).read_bytes()
    assert ask("hospital-1", 1).status_code == 200
    assert ask("outsider", 1).status_code == 403
    assert ask("container", 2).status_code == 403


def test_public_routes_and_a_dead_manager(site, world):
    pem = requests.get(f"{world.url}/manager-ca", timeout=10).content
    assert pem == world.authority.manager_ca.read_bytes()
    assert "version" in requests.get(f"{world.url}/health", timeout=10).json()
    path = site[0] / "manager.sock"
    path.rename(site[0] / "gone.sock")
    down = requests.get(f"{world.url}/health", timeout=10)
    (site[0] / "gone.sock").rename(path)
    assert (down.status_code, down.json()["error"]) == (503, "HostError")
    assert requests.get(f"{site[1]}/version", timeout=10).ok


def test_a_hanging_manager_does_not_hold_up_the_server(site, world):
    """A manager that accepts and says nothing: other requests of the server go on meanwhile."""
    path = site[0] / "manager.sock"
    path.rename(site[0] / "real.sock")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        waiting = threading.Thread(target=requests.get, args=(f"{world.url}/health",))
        waiting.start()
        time.sleep(0.3)
        began = time.monotonic()
        assert requests.get(f"{site[1]}/version", timeout=10).ok
        assert time.monotonic() - began < 2
        silent.close()
        waiting.join(20)
    (site[0] / "real.sock").rename(path)


def test_the_api_client_refuses_by_name(site):
    with Vantage6Api(site[1]) as api, pytest.raises(Vantage6Refused):
        api.node_token("no such key")
    bearer = tokens(site[1])
    with Vantage6Api(site[1], bearer["user"]) as api, pytest.raises(Vantage6Refused):
        api.validate_node()
    with Vantage6Api(site[1], bearer["hospital-1"]) as api:
        node = api.node(api.validate_node())
        assert api.organization_name(node.organization_id) == "hospital-1"
        run = api.runs(1)[0]
        assert (run.node_id, run.organization_id) == (node.id, node.organization_id)
        api.patch_node_ip(node.id, "10.8.0.2")
        api.post_port(run.id, 7100, "overlay")
        api.delete_ports(run.id)
    with Vantage6Api("http://127.0.0.1:9/api") as api, pytest.raises(HostError):
        api.node_token("x")
