"""The three surfaces over real sockets: who gets in where, and that every refusal is JSON."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import stat
import threading
import time
from datetime import datetime, timezone

import pytest
import requests

from overlay import identity
from overlay.manager import api, server
from tests.unit.manager_world import Candidate, World


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("manager", timeout=5)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(self.path))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    directory = tmp_path_factory.mktemp("manager")
    world = World(directory)
    path = directory / "run" / "manager.sock"
    local = ("127.0.0.1", 0)
    servers = server.build(world.service, unix_path=path, bearer_address=local, agent_address=local)
    for item in servers:
        item.prepare()
        threading.Thread(target=item.serve, daemon=True).start()
    world.path = path
    world.bearer = f"https://127.0.0.1:{servers[1].bind_addr[1]}/api/overlay"
    world.agent = f"https://127.0.0.1:{servers[2].bind_addr[1]}/api/overlay"
    yield world
    for item in servers:
        item.stop()


def unix(world, method, path, caller=None, body=None):
    connection = UnixConnection(world.path)
    headers = {api.CALLER_HEADER: json.dumps(caller)} if caller is not None else {}
    connection.request(method, f"/api/overlay{path}", json.dumps(body), headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_unix_socket_is_private_and_enrols(running):
    assert stat.S_IMODE(running.path.stat().st_mode) == 0o660
    assert unix(running, "GET", "/health")[0] == 200
    one = Candidate("hospital-1", 1)
    token = running.token()
    status, answer = unix(running, "POST", "/enrol", vars(one.caller), one.body(token))
    assert status == 200, answer
    status, answer = unix(running, "POST", "/enrol/abort", vars(one.caller), {"token": token})
    assert (status, json.loads(answer)) == (200, {"station": "hospital-1"})


@pytest.mark.parametrize("caller", [None, {}, [], "x", {"node_id": "x"}])
def test_without_a_caller_nobody_enrols(running, caller):
    one = Candidate("hospital-1", 1)
    status, answer = unix(running, "POST", "/enrol", caller, one.body(running.token()))
    assert status == 403
    assert json.loads(answer)["error"] == "EnrolmentRefused"


def test_tls_port_pins_and_refuses(running):
    ca = str(running.authority.manager_ca)
    answer = requests.get(f"{running.bearer}/manager-ca", verify=ca, timeout=5)
    fetched = identity.fingerprint(identity.load_cert(answer.content))
    assert fetched == running.authority.manager_fingerprint()
    # The caller's own header counts for nothing here, and there is no state on this surface.
    one = Candidate("hospital-1", 1)
    header = {api.CALLER_HEADER: json.dumps(vars(one.caller))}
    body = one.body(running.token())
    refused = requests.post(
        f"{running.bearer}/enrol", json=body, headers=header, verify=ca, timeout=5
    )
    assert (refused.status_code, refused.json()["what"]) == (403, "no vantage6 token was sent")
    assert requests.get(f"{running.bearer}/state", verify=ca, timeout=5).status_code == 404
    # With no vantage6 server to ask, nobody is anybody.
    header = {"Authorization": "Bearer x"}
    down = requests.post(f"{running.bearer}/enrol", json=body, headers=header, verify=ca, timeout=5)
    assert (down.status_code, down.json()["error"]) == (503, "HostError")
    # Too much is refused before it is read.
    port = int(running.bearer.split("/")[2].split(":")[1])
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    connection.putrequest("POST", "/api/overlay/enrol")
    connection.putheader("Content-Length", str(10**9))
    connection.endheaders()
    assert connection.getresponse().status == 413
    assert running.registry.pending() == []


def test_agents_need_their_own_certificate(running, tmp_path):
    ca = str(running.authority.manager_ca)
    with pytest.raises(requests.RequestException):
        requests.get(f"{running.agent}/state", verify=ca, timeout=5)
    member = running.admit("hospital-1", 1)
    pair = client_pair(running, member, tmp_path)
    answer = requests.get(f"{running.agent}/state", verify=ca, cert=pair, timeout=5)
    assert answer.json()["stations"][0]["station"] == "hospital-1"
    # A certificate of the same CA for a name that was never admitted, or for an older key.
    for stranger in (Candidate("hospital-2", 2), Candidate("hospital-1", 1)):
        pair = client_pair(running, stranger, tmp_path)
        refused = requests.get(f"{running.agent}/state", verify=ca, cert=pair, timeout=5)
        assert refused.status_code == 403
    # The manager's own server certificate is no client's.
    own = (str(running.authority.tls_certificate), str(running.authority.tls_key))
    with pytest.raises(requests.RequestException):
        requests.get(f"{running.agent}/state", verify=ca, cert=own, timeout=5)


def client_pair(world, candidate, tmp_path):
    csr = identity.load_csr(identity.create_csr(candidate.client_key, "x"))
    name = candidate.caller.station
    now = datetime.now(timezone.utc)
    pem = world.authority.client_certificate(csr, name, candidate.caller.collaboration_id, now)
    (tmp_path / "client.pem").write_bytes(pem)
    (tmp_path / "client.key").write_bytes(identity.key_pem(candidate.client_key))
    return str(tmp_path / "client.pem"), str(tmp_path / "client.key")


def test_silent_clients_hold_up_nobody(running):
    """Connections that never shake hands: the next honest client is served at once."""
    host, port = running.bearer.split("/")[2].split(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(10)]
    began = time.monotonic()
    ca = str(running.authority.manager_ca)
    assert requests.get(f"{running.bearer}/health", verify=ca, timeout=5).ok
    assert time.monotonic() - began < 2
    for item in silent:
        item.close()


def test_only_tls_1_3(running):
    host, port = running.bearer.split("/")[2].split(":")
    context = ssl.create_default_context(cafile=running.authority.manager_ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((host, int(port))) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname=host)
