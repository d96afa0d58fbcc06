"""The plug-in in a real vantage6 server under uwsgi: who may enrol, and who may not.

Needs a Python 3.10 environment with the vantage6 server; its `bin/python` is named by
V6_OVERLAY_VANTAGE6_PYTHON. The lab has the same server and runs the same plug-in on whole hosts.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest
import requests
import yaml

from overlay.drivers.vantage6_api import Vantage6Api
from overlay.errors import HostError, Vantage6Refused
from overlay.manager import server
from tests.unit.manager_world import Candidate, World

PYTHON = os.environ.get("V6_OVERLAY_VANTAGE6_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="V6_OVERLAY_VANTAGE6_PYTHON names no vantage6 server environment"
)
KEYS = {name: str(uuid.uuid4()) for name in ("hospital-1", "outsider")}
# As in vantage6's own server.sh.
OFFICIAL_FLAGS = (
    "--gevent 1000 --http-websockets --http-chunked-input --http-keepalive --post-buffering 0"
    " --master --callable app --disable-logging"
)
PASSWORD = "Root-of-all-1!"


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory: Path = tmp_path_factory.mktemp("plugin")
    port = free_port()
    config = {
        "description": "test",
        "ip": "127.0.0.1",
        "port": port,
        "api_path": "/api",
        "uri": f"sqlite:///{directory}/server.sqlite",
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
    bin_directory = Path(PYTHON).parent
    environment = os.environ | {
        "HOME": str(directory),
        "V6_OVERLAY_MANAGER_SOCKET": str(directory / "manager.sock"),
    }
    files = ["-c", "config.yaml", "entities.yaml"]
    subprocess.run(
        [bin_directory / "vserver-local", "import", *files],
        cwd=directory,
        env=environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    plugin = Path(server.__file__).with_name("plugin.py")
    log = (directory / "uwsgi.log").open("wb")
    process = subprocess.Popen(
        [
            bin_directory / "uwsgi",
            *f"--http 127.0.0.1:{port} {OFFICIAL_FLAGS} --wsgi-file {plugin}".split(),
            *("--pyargv", directory / "config.yaml"),
        ],
        cwd=directory,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        url = f"http://127.0.0.1:{port}/api"
        wait_for(url, directory / "uwsgi.log")
        yield directory, url
    finally:
        process.send_signal(signal.SIGINT)  # uwsgi reloads at SIGTERM
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        log.close()


def wait_for(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/version", timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    pytest.fail(log.read_text()[-3000:])


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
