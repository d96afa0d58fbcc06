"""Drivers without a host: what they say to nft, WireGuard, systemd and vantage6."""

from __future__ import annotations

import base64
import json
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from overlay.drivers import command, files, guard, systemd, wireguard, wireguard_device
from overlay.drivers.vantage6_api import Vantage6Api
from overlay.drivers.wireguard_device import DevicePeer, PeerChange, UserspaceDevice
from overlay.errors import HostError, MissingRequirement, Vantage6Refused
from tests.unit.manager_world import wireguard_key

# --- programs and files -------------------------------------------------------------------------


def test_a_failing_program_is_a_named_error():
    assert command.run(["cat"], stdin="x") == "x"
    with pytest.raises(HostError) as caught:
        command.run([sys.executable, "-c", "import sys; sys.exit('reason')"])
    assert caught.value.why == "reason"
    with pytest.raises(HostError, match="did not end"):
        command.run(["sleep", "5"], timeout=0.1)
    with pytest.raises(MissingRequirement):
        command.run(["no-such-program"])


def test_files_are_private_and_whole(tmp_path):
    path = tmp_path / "secret"
    files.write(path, b"one")
    files.write(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["secret"]
    path.write_text("{")
    with pytest.raises(HostError):
        files.read_json(path)


# --- the guard ----------------------------------------------------------------------------------


def listing(rules):
    chains = [{"chain": {"name": h, "hook": h}} for h in ("output", "input", "forward")]
    items = [
        {
            "rule": {
                "chain": rule.chain,
                "comment": rule.name,
                "expr": [{"counter": {"packets": 3, "bytes": 9}}, {"drop": None}],
            }
        }
        for rule in rules
    ]
    return json.dumps({"nftables": [{"metainfo": {}}, *chains, *items]})


def test_guard_is_replaced_in_one_transaction_and_names_every_rule():
    text = guard.script("10.0.0.0/16")
    assert text.splitlines()[:3] == [
        f"{verb} table inet v6_overlay_guard" for verb in ("add", "delete", "add")
    ]
    names = re.findall(r'comment "([a-z0-9-]+)"', text)
    assert len(names) == len(set(names)) == len(guard.rules("10.0.0.0/16"))
    assert text.count(" drop ") == len(names)
    assert "10.0.0.0/16" not in guard.script()


def test_guard_check_names_what_is_missing(monkeypatch):
    rules = guard.rules("10.0.0.0/16")
    monkeypatch.setattr(guard, "run", lambda argv, **_: listing(rules))
    assert guard.check("10.0.0.0/16") == []
    assert guard.counters()["out-udp"] == 3
    monkeypatch.setattr(guard, "run", lambda argv, **_: listing(rules[1:]))
    assert guard.check("10.0.0.0/16") == [rules[0].name]

    def gone(argv, **_):
        raise HostError("x", why="Error: No such file or directory")

    monkeypatch.setattr(guard, "run", gone)
    assert len(guard.check("10.0.0.0/16")) == len(rules) + 3


# --- units --------------------------------------------------------------------------------------


def test_units_stand_in_the_right_order(monkeypatch):
    monkeypatch.setattr(systemd, "program", lambda: "/opt/v6-overlay/bin/v6-overlay")
    for backend in ("kernel", "userspace"):
        units = systemd.wireguard_units(backend)
        assert "docker.service" in value(units[systemd.GUARD], "Before")
        assert systemd.WIREGUARD in value(units[systemd.GUARD], "Before")
        assert value(units[systemd.WIREGUARD], "Before") == "docker.service"
        assert systemd.GUARD in value(units[systemd.WIREGUARD], "After")
        assert all("WantedBy=" in text for text in units.values())
    assert "-f wg-v6o" in value(units[systemd.WIREGUARD], "ExecStart")
    assert "docker.service" in value(systemd.manager_units()[systemd.MANAGER], "After")
    socket_unit = systemd.station_units()[systemd.STATION_SOCKET]
    assert value(socket_unit, "SocketMode") == "0660"


def value(text, key):
    return next(line.split("=", 1)[1] for line in text.splitlines() if line.startswith(f"{key}="))


def test_missing_units_are_those_that_differ(tmp_path):
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("other")
    assert systemd.missing({"a": "1", "b": "2", "c": "3"}, tmp_path) == ["b", "c"]


# --- WireGuard ----------------------------------------------------------------------------------


class ListDevice:
    def __init__(self, peers):
        self.present = peers
        self.calls = []

    def peers(self):
        return self.present

    def change_peers(self, remove, put):
        self.calls.append((list(remove), list(put)))


def test_only_what_differs_is_changed():
    same, moved, roaming, new, old = (wireguard_key() for _ in range(5))
    now = time.time()
    device = ListDevice(
        [
            DevicePeer(same, ("192.0.2.1", 1), 0, 0, 0, ("10.0.0.1/32",)),
            DevicePeer(moved, ("192.0.2.2", 1), 0, 0, 0, ("10.0.0.2/32",)),
            DevicePeer(roaming, ("198.51.100.9", 7), now, 0, 0, ("10.0.0.3/32",)),
            DevicePeer(old, None, now, 0, 0, ("10.0.0.9/32",)),
        ]
    )
    wanted = [
        wireguard.Peer("a", same, "192.0.2.1:1", "10.0.0.1"),
        wireguard.Peer("b", moved, "192.0.2.22:1", "10.0.0.2"),
        wireguard.Peer("c", roaming, "192.0.2.3:1", "10.0.0.3"),
        wireguard.Peer("d", new, "", "10.0.0.4"),
    ]
    wireguard._apply_peers(device, wanted)
    assert device.calls == [
        (
            [old],
            [
                PeerChange(moved, "10.0.0.2/32", ("192.0.2.22", 1)),
                PeerChange(new, "10.0.0.4/32", None),
            ],
        )
    ]


def test_an_unknown_endpoint_does_not_stop_the_others():
    device = ListDevice([])
    names = [
        wireguard.Peer("a", wireguard_key(), "no-such-host.invalid:1", "10.0.0.1"),
        wireguard.Peer("b", wireguard_key(), "[2001:db8::1]:9", "10.0.0.2"),
    ]
    wireguard._apply_peers(device, names)
    assert [peer.endpoint for peer in device.calls[0][1]] == [None, ("2001:db8::1", 9)]


def test_keys_and_configuration_stay(tmp_path):
    directory = tmp_path / "wireguard"
    public = wireguard.ensure_key(directory)
    assert wireguard.ensure_key(directory) == public
    assert wireguard.is_public_key(public)
    assert stat.S_IMODE((directory / "private.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    peer = wireguard.Peer("a", public, "h:1", "10.0.0.2")
    config = wireguard.Config("userspace", "10.0.0.1/16", 51820, (peer,))
    wireguard.save(config, directory)
    assert wireguard.load(directory) == config
    assert (config.subnet, config.ip) == ("10.0.0.0/16", "10.0.0.1")
    assert "private" not in (directory / "config.json").read_text()
    (directory / "config.json").write_text('{"backend": 1}')
    with pytest.raises(HostError, match="damaged"):
        wireguard.load(directory)


@pytest.fixture
def uapi(tmp_path, monkeypatch):
    """A socket that answers as wireguard-go does, and keeps what it was asked."""
    monkeypatch.setattr(wireguard_device, "UAPI_DIRECTORY", tmp_path)
    asked: list[str] = []
    answer = {"text": "errno=0\n\n"}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "wg0.sock"))
    listener.listen()

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(65536).decode())
                connection.sendall(answer["text"].encode())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield UserspaceDevice("wg0"), asked, answer
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def test_userspace_speaks_uapi(uapi):
    device, asked, answer = uapi
    key = base64.b64decode(wireguard_key())
    text = base64.b64encode(key).decode()
    device.change_peers([text], [PeerChange(text, "10.0.0.2/32", ("2001:db8::1", 5))])
    assert asked[-1] == (
        f"set=1\npublic_key={key.hex()}\nremove=true\npublic_key={key.hex()}\n"
        "endpoint=[2001:db8::1]:5\npersistent_keepalive_interval=25\n"
        "replace_allowed_ips=true\nallowed_ip=10.0.0.2/32\n\n"
    )
    count = len(asked)
    device.change_peers([], [])
    assert len(asked) == count
    answer["text"] = (
        f"private_key={key.hex()}\nlisten_port=51820\npublic_key={key.hex()}\n"
        "endpoint=192.0.2.1:9\nlast_handshake_time_sec=12\nrx_bytes=3\ntx_bytes=4\n"
        "allowed_ip=10.0.0.2/32\nallowed_ip=10.0.0.3/32\nerrno=0\n\n"
    )
    assert device.peers() == [
        DevicePeer(text, ("192.0.2.1", 9), 12.0, 3, 4, ("10.0.0.2/32", "10.0.0.3/32"))
    ]
    # The key that it has already is not set again: that would end all sessions.
    count = len(asked)
    device.set_identity(key, 51820)
    assert asked[count:] == ["get=1\n\n"]
    answer["text"] = "errno=22\n\n"
    with pytest.raises(HostError) as caught:
        device.set_identity(key, 1)
    assert key.hex() not in str(caught.value)


def test_no_wireguard_go_is_an_error_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(wireguard_device, "UAPI_DIRECTORY", tmp_path)
    began = time.monotonic()
    with pytest.raises(HostError):
        UserspaceDevice("wg0").wait(0.1)
    assert time.monotonic() - began < 2


# --- the vantage6 server ------------------------------------------------------------------------


@pytest.fixture
def vantage6():
    """A server that answers with what the test put there, by method and path."""
    answers: dict[str, tuple[int, object]] = {}

    class Handler(BaseHTTPRequestHandler):
        def reply(self):
            path = self.path.split("?")[0]
            status, body = answers.get(f"{self.command} {path}", (404, {"msg": "no"}))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:9/")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = reply  # noqa: N815

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with Vantage6Api(f"http://127.0.0.1:{server.server_port}/api", timeout=5) as api:
        yield api, answers
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"msg": "x"}),
        (500, b"<html>"),
        (204, b""),
        (302, {}),
        (200, b"[]"),
        (200, {"id": 1}),
        (200, b"not json"),
    ],
)
def test_anything_but_success_is_nobody(vantage6, answer):
    api, answers = vantage6
    answers["POST /api/token/node/validate"] = answer
    answers["GET /api/node/1"] = answer
    for ask in (api.validate_node, lambda: api.node(1)):
        with pytest.raises(Vantage6Refused):
            ask()


def test_a_node_and_its_runs(vantage6):
    api, answers = vantage6
    answers["POST /api/token/node/validate"] = (200, {"node_id": 4})
    organization, collaboration = {"id": 2}, {"id": 1}
    answers["GET /api/node/4"] = (
        200,
        {"id": 4, "name": "n", "organization": organization, "collaboration": collaboration},
    )
    runs = [
        {"id": number, "organization": organization, "node": {"id": 4}, "status": "active"}
        for number in (9, 7)
    ]
    answers["GET /api/run"] = (200, {"data": runs})
    node = api.node(api.validate_node())
    assert (node.organization_id, node.collaboration_id) == (2, 1)
    assert [run.id for run in api.runs(3)] == [7, 9]


def test_program_is_absolute():
    out = subprocess.run(
        [sys.executable, "-c", "from overlay.drivers import systemd; print(systemd.program())"],
        capture_output=True,
        text=True,
    ).stdout
    assert out.startswith("/")
