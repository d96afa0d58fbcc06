"""Who gets into a group, and what a run finds in its directory."""

from __future__ import annotations

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from cryptography import x509

from overlay import identity
from overlay.errors import (
    NotAdmitted,
    PeerMissing,
    ProtocolError,
    UsageError,
)
from overlay.identity.issue import create_ca
from overlay.peer import Group
from overlay.peer import roster as rosters
from overlay.peer.testing import local_groups
from overlay.wire import Kind, canonical_json, encode_message
from tests.unit.peer_world import together

# --- who is refused -------------------------------------------------------------------------


def dial(target, *, ca=None, cert=None, tls=True):
    """Knock at a group's port as a stranger would; what the door answered."""
    me = rosters.load(target).me
    sock = socket.create_connection((me.address, me.port), timeout=5)
    if not tls:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        return sock.recv(100)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(ca or target / "ca.pem")
    if cert is not None:
        context.load_cert_chain(cert / "identity.pem", cert / "identity.key")
    with context.wrap_socket(sock, server_hostname=me.hostname) as secured:
        secured.settimeout(5)
        return secured.recv(100)


def strangers_case(kind, paths, tmp_path):
    target = paths[0]
    if kind == "plain":
        return dial(target, tls=False)
    if kind == "no certificate":
        return dial(target)
    if kind == "wrong ca":
        return dial(target, cert=local_groups(2, tmp_path / "other")[1])
    if kind == "other task":
        return dial(target, cert=tmp_path / "other-task")
    if kind == "second connection":
        return dial(target, cert=paths[1])
    raise AssertionError(kind)


def run_identity(ca, ca_key, path, *, task_id):
    """An identity of hospital-2 for run 2 of a task, issued below `ca`."""
    now = datetime.now(timezone.utc)
    key = identity.new_key()
    csr = identity.load_csr(identity.create_csr(key, "hospital-2"))
    station = identity.issue_station_ca(ca, ca_key, csr, "hospital-2", 1, now)
    chain, run_key = identity.issue_run(
        station, key, station="hospital-2", collaboration_id=1, task_id=task_id, run_id=2, now=now
    )
    path.mkdir()
    (path / "identity.pem").write_bytes(chain)
    (path / "identity.key").write_bytes(run_key)
    (path / "ca.pem").write_bytes(identity.cert_pem(ca))
    return path


@pytest.fixture
def known_ca(monkeypatch):
    """The throwaway CA that `local_groups` will use, so that a test can sign with it."""
    made = identity.create_ca("throwaway collaboration", datetime.now(timezone.utc))
    monkeypatch.setattr(identity, "create_ca", lambda *_: made)
    return made


@pytest.mark.parametrize(
    "kind", ["plain", "no certificate", "other task", "second connection", "wrong ca"]
)
def test_a_stranger_is_refused_and_the_run_goes_on(kind, tmp_path, known_ca, monkeypatch):
    paths = local_groups(2, tmp_path / "runs")
    run_identity(*known_ca, tmp_path / "other-task", task_id=99)
    monkeypatch.undo()

    def algorithm(group):
        if group.index == 0:
            try:
                answer = strangers_case(kind, paths, tmp_path)
            except OSError:
                answer = b""
            assert answer == b""
            deadline = time.monotonic() + 3
            while not group.strangers and time.monotonic() < deadline:
                time.sleep(0.02)
        return group.strangers, group.exchange(dict.fromkeys(group.others, b"x"))

    results = together(paths, algorithm)
    if kind == "wrong ca":  # refused on our side of the door: it never trusts this server either
        assert results[0][1] == {"hospital-2": b"x"}
    else:
        assert results[0] == (1, {"hospital-2": b"x"})


@pytest.mark.parametrize("kind", ["right", "wrong ca", "other task"])
def test_a_member_without_the_right_certificate_does_not_get_in(kind, tmp_path, known_ca):
    paths = local_groups(2, tmp_path / "runs")
    ca = create_ca("another", datetime.now(timezone.utc)) if kind == "wrong ca" else known_ca
    bad = run_identity(*ca, tmp_path / "bad", task_id=99 if kind == "other task" else 1)
    for name in ("identity.pem", "identity.key"):
        (paths[1] / name).write_bytes((bad / name).read_bytes())
    results = together(paths, lambda group: "met", rendezvous=1.0)
    if kind == "right":
        assert results == ["met", "met"]
    else:
        assert all(isinstance(r, PeerMissing) for r in results)


def test_a_member_that_breaks_the_protocol_is_named(tmp_path):
    paths = local_groups(2, tmp_path)
    roster = rosters.load(paths[1])
    hello = canonical_json({"roster": roster.digest()})
    ends = {"task": 1, "sender": 2, "receiver": 1}

    def speak(*frames):
        me = rosters.load(paths[0]).me
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(paths[1] / "ca.pem")
        context.load_cert_chain(paths[1] / "identity.pem", paths[1] / "identity.key")
        while True:
            try:
                sock = socket.create_connection((me.address, me.port))
                break
            except OSError:
                time.sleep(0.05)
        with context.wrap_socket(sock, server_hostname=me.hostname) as secured:
            for frame in frames:
                secured.sendall(frame)
            secured.settimeout(5)
            while secured.recv(1000):
                pass

    (greeting,) = encode_message(Kind.HELLO, hello, **ends)
    for frames, what in (
        ([next(encode_message(Kind.HELLO, b'{"roster":"x"}', **ends))], "another roster"),
        ([greeting, greeting], "wrong sequence"),
        ([greeting, next(encode_message(Kind.DATA, b"short", sequence=1, **ends))], "too short"),
        ([greeting, b"x" * 64], "not a frame"),
    ):
        with ThreadPoolExecutor(1) as pool:
            speaker = pool.submit(speak, *frames)
            (error,) = together(paths[:1], lambda group: group.gather())
            speaker.cancel()
        assert isinstance(error, ProtocolError)
        assert error.station == "hospital-2"
        assert what in error.what


def test_idle_strangers_do_not_keep_a_peer_out(tmp_path):
    paths = local_groups(2, tmp_path)
    me = rosters.load(paths[0]).me
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(together, paths[:1], lambda group: group.strangers)
        idle = []
        while len(idle) < 50:
            try:
                idle.append(socket.create_connection((me.address, me.port)))
            except OSError:
                time.sleep(0.02)
        assert together(paths[1:], lambda group: group.size) == [2]
        assert first.result()[0] >= 18  # 32 may wait at once
    for sock in idle:
        sock.close()


# --- what the station put there -------------------------------------------------------------


def test_a_refusal_is_given_on(tmp_path):
    reason = NotAdmitted("the image is not allowed", why="its digest is not listed")
    (tmp_path / "refused.json").write_text(json.dumps(reason.as_dict()))
    with pytest.raises(NotAdmitted, match="image is not allowed") as caught:
        Group.join(path=tmp_path)
    assert caught.value.why == "its digest is not listed"


def test_nothing_there_says_what_to_check(tmp_path):
    with pytest.raises(NotAdmitted) as caught:
        Group.join(path=tmp_path / "none")
    assert "org.v6-overlay.algorithm=1" in caught.value.next_step


@pytest.mark.parametrize(
    "change",
    [{"version": 2}, {"members": []}, {"members": 3}, {"run_id": 5}, {"task_id": "x"}],
)
def test_a_malformed_roster_is_refused(change, tmp_path):
    path = local_groups(2, tmp_path)[0]
    raw = json.loads((path / "roster.json").read_text())
    (path / "roster.json").write_text(json.dumps(raw | change))
    with pytest.raises(NotAdmitted, match="roster is malformed"):
        Group.join(path=path)


@pytest.mark.parametrize("name", ["identity.pem", "identity.key", "ca.pem"])
def test_an_incomplete_directory_is_refused(name, tmp_path):
    path = local_groups(1, tmp_path)[0]
    (path / name).unlink()
    with pytest.raises(NotAdmitted, match="incomplete"):
        Group.join(path=path)


def test_wrong_calls_are_refused(tmp_path):
    with Group.join(path=local_groups(1, tmp_path)[0]) as group:
        for call in (
            lambda: group.send("nowhere", b""),
            lambda: group.exchange({"nowhere": b""}),
            lambda: group.exchange({}, round=-1),
            lambda: group.receive(from_=group.me),
        ):
            with pytest.raises(UsageError):
                call()


def test_run_directories_hold_what_the_names_say(tmp_path):
    path = local_groups(3, tmp_path)[1]
    leaf = x509.load_pem_x509_certificate((path / "identity.pem").read_bytes())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.DNSName) == [rosters.load(path).me.hostname]
    assert (path / "identity.key").stat().st_mode & 0o777 == 0o600
