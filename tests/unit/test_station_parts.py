"""Configuration, allow-list, address book and sockets of a station."""

from __future__ import annotations

import io
import os
import platform
import socket
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import FingerprintMismatch, HostError, OverlayError, UsageError
from overlay.station import agent, config, gateway, images, manager_api
from overlay.station.addressbook import entries
from overlay.station.admission import Image
from overlay.station.config import Policy, load_node, load_policy, save_policy
from overlay.station.gateway import Forward

DIGEST = "reg:5000/sums@sha256:" + "a" * 64
ID = "sha256:" + "b" * 64


class Engine:
    def image(self, reference: str) -> Image | None:
        known = {
            "reg:5000/sums:1": Image(ID, ("other/x@sha256:" + "c" * 64, DIGEST), {}),
            "local": Image(ID, (), {}),
        }
        return known.get(reference)


def test_allow_list_edits_are_idempotent(tmp_path: Path) -> None:
    path, engine = tmp_path / "etc" / "station.yaml", Engine()
    assert images.allow("reg:5000/sums:1", path, engine) == (True, DIGEST)  # type: ignore[arg-type]
    assert images.allow(DIGEST, path) == (False, DIGEST)
    assert images.allow("local", path, engine) == (True, ID)  # type: ignore[arg-type]
    assert images.listed(path) == sorted([DIGEST, ID])
    assert images.disallow("reg:5000/sums:1", path, engine) == (True, DIGEST)  # type: ignore[arg-type]
    assert images.disallow(DIGEST, path) == (False, DIGEST)
    assert images.listed(path) == [ID]


@pytest.mark.parametrize("bad", ["", "-x", "a b", "x@sha256:12", "unknown:1", "$(id)"])
def test_bad_references(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UsageError):
        images.allow(bad, tmp_path / "s.yaml", Engine())  # type: ignore[arg-type]


def test_policy_keeps_what_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "station.yaml"
    path.write_text("later_key: 1\naddress_book: true\n")
    save_policy(Policy((ID,), True, "/n.yaml"), path)
    assert "later_key: 1" in path.read_text()
    assert load_policy(path) == Policy((ID,), True, "/n.yaml")
    assert load_policy(tmp_path / "absent.yaml") == Policy()


@pytest.mark.parametrize(
    "text", ["images: [sums:1]", "images: x", "- a", "address_book: 1", "a: ["]
)
def test_bad_policies_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "station.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"station\.yaml"):
        load_policy(path)


def test_node_configuration(tmp_path: Path) -> None:
    path = tmp_path / "node.yaml"
    path.write_text("api_key: topsecret\nserver_url: https://v6.example/\nport: 443\n")
    node = load_node(path)
    assert (node.url, node.api_key) == ("https://v6.example:443/api", "topsecret")
    assert "topsecret" not in repr(node)
    assert len(config.hook_missing(path)) == 2
    path.write_text(
        "node_extra_env: {DOCKER_HOST: 'unix:///run/v6-overlay/proxy/docker.sock'}\n"
        "node_extra_mounts: ['/run/v6-overlay/proxy:/run/v6-overlay/proxy']\n"
    )
    assert config.hook_missing(path) == []
    with pytest.raises(UsageError, match="api_key"):
        load_node(path)
    with pytest.raises(UsageError, match="not there"):
        load_node(tmp_path / "absent.yaml")


class Answer:
    def __init__(self, status: int, content: bytes) -> None:
        self.status_code = status
        self.content = content

    def json(self) -> Any:
        raise ValueError


@pytest.mark.parametrize("content", [b"", b"junk", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("status", [200, 302, 404])
def test_anything_but_the_pinned_ca_is_a_mismatch(
    monkeypatch: pytest.MonkeyPatch, status: int, content: bytes
) -> None:
    monkeypatch.setattr(
        manager_api.requests.Session, "get", lambda *_, **__: Answer(status, content)
    )
    with pytest.raises(FingerprintMismatch):
        manager_api.pinned_ca("https://x", "sha256:" + "0" * 64)


def test_refusals_keep_the_managers_words() -> None:
    error = manager_api._refusal(403, {"what": "no", "why": "because", "next": "do"})
    assert (error.what, error.why, error.next_step) == ("no", "because", "do")
    assert isinstance(manager_api._refusal(500, {"what": "no"}), HostError)
    assert isinstance(manager_api._refusal(502, None), OverlayError)


# --- address book ------------------------------------------------------------------------------


def test_entries_follow_vantage6() -> None:
    image = Image(ID, (), {"p5000": "rpc"}, ports=(5000, 6000))
    made = entries(image, {49152, 49154})
    assert [(item.port, item.target, item.label) for item in made] == [
        (49153, 5000, "rpc"),
        (49155, 6000, ""),
    ]
    assert [item.target for item in entries(Image(ID, (), {}), set())] == [8888]


def test_forwards_admit_only_their_sources() -> None:
    text = gateway.script(
        [
            Forward(49152, "10.0.0.5", 5000, ("10.0.0.6", "10.0.0.7")),
            Forward(49153, "10.0.0.8", 5000, ()),
        ]
    )
    assert "ip saddr { 10.0.0.6, 10.0.0.7 } tcp dport 49152 dnat to 10.0.0.5:5000" in text
    assert "49153" not in text  # nobody may come yet
    assert "policy drop" in text


def test_runs_are_reached_through_the_gateway_only() -> None:
    text = gateway.shielding([8888, 9000], "10.0.0.2")
    assert "tcp dport { 8888, 9000 } ip saddr != 10.0.0.2 drop" in text


@pytest.mark.skipif(platform.machine() != "x86_64", reason="runs the program that it makes")
def test_the_gateways_program_sleeps(tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(gateway.image_tar("x86_64"))) as tar:
        tar.extractall(tmp_path, filter="data")
    child = subprocess.Popen([str(tmp_path / "pause")])
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.2)
    child.kill()
    assert child.wait() == -9
    assert gateway.image_tar("aarch64")


def answer(kind: int, data: bytes) -> bytes:
    head = b"ab" + struct.pack(">HHHHH", 0x8180, 1, 1, 0, 0)
    question = b"\x01x\x00\x00\x01\x00\x01"
    return head + question + b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 600, len(data)) + data


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (answer(1, bytes([10, 0, 0, 9])), "10.0.0.9"),
        (answer(28, bytes(16)), ""),
        (b"xx" + answer(1, bytes(4))[2:], ""),
        (answer(1, bytes([10, 0, 0, 9]))[:-3], ""),
        (b"", ""),
    ],
)
def test_dns_answers(datagram: bytes, expected: str) -> None:
    assert gateway.address_in(datagram, b"ab", 7) == expected


# --- sockets --------------------------------------------------------------------------------


def test_own_socket_replaces_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "proxy" / "docker.sock"
    agent.own_socket(path).close()
    sock = agent.own_socket(path)
    assert oct(path.stat().st_mode & 0o777) == "0o660"
    sock.close()


def test_only_our_own_inherited_socket_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert agent.inherited_socket() is None
    made = socket.socket(socket.AF_UNIX)
    fd = os.dup(made.fileno())
    monkeypatch.setattr(agent, "_FIRST_FD", fd)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    taken = agent.inherited_socket()
    assert taken is not None
    assert not os.get_inheritable(fd)
    taken.close()
    made.close()


def test_without_a_join_the_agent_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overlay.station.local import Local

    with pytest.raises(HostError, match="not a station"):
        Local(tmp_path)
