"""Real groups on loopback: what works, and next to it how each thing fails by name."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import numpy as np
import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from overlay import identity
from overlay.errors import (
    NotAdmitted,
    OverlayError,
    PeerAborted,
    PeerLate,
    PeerLost,
    PeerMissing,
    ProtocolError,
    TranscriptMismatch,
    UsageError,
)
from overlay.identity.issue import create_ca
from overlay.peer import Group, Settings
from overlay.peer import roster as rosters
from overlay.peer.testing import local_groups
from overlay.wire import Kind, canonical_json, encode_message

FAST = Settings(heartbeat=0.1, silent=0.8, handshake=2.0, parting=1.0)


def together(paths, algorithm, *, rendezvous=10.0, timeout=10.0, settings=FAST):
    """Run `algorithm(group)` for each path in a thread; results or errors, in order."""

    def one(path):
        try:
            with Group.join(rendezvous, timeout, path=path, settings=settings) as group:
                return algorithm(group)
        except OverlayError as error:
            return error

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(one, paths))


# --- what works -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_everybody_gives_everybody_an_array(n, tmp_path):
    def algorithm(group):
        mine = {s: np.full((2, 3), group.index, np.uint64) for s in group.stations}
        return {s: int(a.sum()) for s, a in group.exchange(mine).items()}

    paths = local_groups(n, tmp_path)
    stations = [p.name for p in paths]
    for result in together(paths, algorithm):
        assert result == {s: 6 * i for i, s in enumerate(stations)}


def test_a_group_knows_itself(tmp_path):
    def algorithm(group):
        return (group.me, group.stations, group.others, group.index, group.size, group.run_id)

    results = together(local_groups(3, tmp_path, task_id=9), algorithm)
    names = ("hospital-1", "hospital-2", "hospital-3")
    assert results[1] == ("hospital-2", names, ("hospital-1", "hospital-3"), 1, 3, 2)


def test_large_arrays_all_at_once_do_not_lock(tmp_path):
    size = 1_000_000

    def algorithm(group):
        for round in range(2):
            mine = {s: np.full(size, 10 * group.index + round, np.uint64) for s in group.others}
            got = group.exchange(mine, round=round)
            for array in mine.values():
                array[:] = 99  # allowed: an exchange ends when everything is out
            for station, array in got.items():
                assert (array == 10 * group.stations.index(station) + round).all()
                array += 1  # what arrives is the caller's own
        return "done"

    assert together(local_groups(3, tmp_path), algorithm) == ["done"] * 3


def test_sending_more_than_the_bounds_waits_and_does_not_fail(tmp_path):
    tight = Settings(heartbeat=0.1, silent=0.8, max_unread=1 << 20, max_queued=1 << 20)

    def algorithm(group):
        if group.index == 0:
            for _ in range(40):
                group.send(group.others[0], bytes(1 << 19))
            return group.receive().payload
        time.sleep(1.5)  # longer than `silent`: a full mailbox is not a dead peer
        count = sum(len(group.receive().payload) for _ in range(40))
        group.send(group.others[0], {"count": count})
        return "done"

    results = together(local_groups(2, tmp_path), algorithm, settings=tight)
    assert results == [{"count": 40 << 19}, "done"]


def test_a_sent_array_may_be_changed_at_once(tmp_path):
    def algorithm(group):
        array = np.arange(500_000)
        group.broadcast(array)
        array[:] = -1
        return [int(a.sum()) for a in group.gather().values()]

    total = 500_000 * 499_999 // 2
    assert together(local_groups(3, tmp_path), algorithm) == [[total] * 2] * 3


def test_messages_are_chosen_by_sender_and_round_or_come_as_they_are(tmp_path):
    def algorithm(group):
        if group.index == 0:
            second = group.receive(from_="hospital-2", round=2)
            rest = [group.receive() for _ in range(3)]
            return second.payload, sorted((m.sender, m.round, m.payload) for m in rest)
        for round in (1, 2):
            group.send("hospital-1", f"{group.me} {round}".encode(), round=round)
        return None

    one, rest = together(local_groups(3, tmp_path), algorithm)[0]
    assert one == b"hospital-2 2"
    assert rest == [
        ("hospital-2", 1, b"hospital-2 1"),
        ("hospital-3", 1, b"hospital-3 1"),
        ("hospital-3", 2, b"hospital-3 2"),
    ]


def test_who_finishes_early_is_not_lost(tmp_path):
    def algorithm(group):
        if group.index == 0:
            group.broadcast(b"last words")
            return "early"
        time.sleep(1.2)
        heard = group.receive(from_="hospital-1").payload
        group.send("hospital-1", b"too late, and nobody minds")
        return heard

    def pair(group):
        result = algorithm(group)
        if group.index:
            other = group.others[1]
            group.send(other, b"still here", round=5)
            assert group.receive(from_=other, round=5).payload == b"still here"
        return result

    assert together(local_groups(3, tmp_path), pair) == ["early", b"last words", b"last words"]


def test_waiting_for_one_who_has_finished_fails_at_once(tmp_path):
    def algorithm(group):
        return "early" if group.index == 0 else group.receive(from_="hospital-1", timeout=8)

    began = time.monotonic()
    early, waiting = together(local_groups(2, tmp_path), algorithm)
    assert early == "early"
    assert isinstance(waiting, PeerLost)
    assert waiting.station == "hospital-1"
    assert time.monotonic() - began < 4


def test_progress_tells_who_is_waited_for(tmp_path):
    paths = local_groups(2, tmp_path)
    heard = []
    late = threading.Timer(0.4, together, [paths[1:], lambda group: None])
    late.start()
    with Group.join(10, progress=heard.append, path=paths[0], settings=FAST):
        pass
    late.join()
    assert heard[0] == "1 of 2 stations here, waiting for hospital-2"
    assert heard[-1].startswith("all 2 stations here")


def test_an_attestation_verifies_and_a_changed_one_does_not(tmp_path):
    path = local_groups(1, tmp_path, task_id=7)[0]
    with Group.join(path=path) as group:
        signed = group.attest({"digest": "ab", "rows": 3})
    who = identity.verify_chain(
        signed["chain"].encode(), signed["ca"].encode(), datetime.now(timezone.utc)
    )
    assert (who.station, who.task_id, who.run_id) == ("hospital-1", 7, 1)
    raw = base64.b64decode(signed["signature"])
    kind = ec.ECDSA(hashes.SHA256())
    who.public_key.verify(raw, canonical_json(signed["statement"]), kind)
    with pytest.raises(InvalidSignature):
        who.public_key.verify(raw, canonical_json({"digest": "ab", "rows": 4}), kind)


def test_a_name_that_does_not_resolve_yet_is_asked_for_again(tmp_path, monkeypatch):
    paths = local_groups(2, tmp_path)
    raw = json.loads((paths[1] / "roster.json").read_text())
    address = raw["members"][0].pop("address")
    (paths[1] / "roster.json").write_text(json.dumps(raw))
    asked = []

    def getaddrinfo(name, port, **_):
        asked.append(name)
        if len(asked) < 3:
            raise socket.gaierror("not yet")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr("overlay.peer.dialer.socket.getaddrinfo", getaddrinfo)
    assert together(paths, lambda group: group.size) == [2, 2]
    assert asked == ["run-1.task-1.hospital-1.c1.v6-overlay.internal"] * 3


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


# --- how it fails ---------------------------------------------------------------------------


def test_a_missing_station_is_named_within_the_deadline(tmp_path):
    paths = local_groups(3, tmp_path)
    began = time.monotonic()
    results = together(paths[1:], lambda group: None, rendezvous=1.0)
    assert time.monotonic() - began < 4
    first = next(r for r in results if isinstance(r, PeerMissing))
    assert first.station == "hospital-1"
    assert "within 1 s" in first.what
    assert "refused" in first.why
    assert all("hospital-1 did not appear" in r.what for r in results)


def test_a_late_message_is_named(tmp_path):
    def algorithm(group):
        if group.index == 0:
            time.sleep(1.0)
            return None
        if group.index == 1:
            group.send("hospital-3", b"in another round", round=4)
            return group.receive(from_="hospital-3", timeout=5).payload
        with pytest.raises(PeerLate) as caught:
            group.gather(round=3, timeout=0.3)
        group.send("hospital-2", b"the run goes on")
        return caught.value

    _, other, late = together(local_groups(3, tmp_path), algorithm)
    assert late.station == "hospital-1, hospital-2"
    assert late.why == "hospital-2 sent round [4] instead"
    assert other == b"the run goes on"


def test_an_abort_names_station_and_reason_and_no_data(tmp_path):
    def algorithm(group):
        if group.index == 1:
            raise UsageError("the column is text", why="value 42 of patient Smith")
        return group.gather()

    one, two, three = together(local_groups(3, tmp_path), algorithm)
    assert isinstance(two, UsageError)
    for error in (one, three):
        assert isinstance(error, PeerAborted)
        assert error.station == "hospital-2"
        assert "hospital-2 stopped the run: UsageError: the column is text" in error.what
        assert "Smith" not in str(error)


def test_a_foreign_exception_travels_without_its_text(tmp_path):
    paths = local_groups(2, tmp_path)

    def broken():
        with Group.join(path=paths[0], settings=FAST):
            raise ValueError("value 42 of patient Smith")

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(broken)
        (error,) = together(paths[1:], lambda group: group.gather())
        with pytest.raises(ValueError, match="Smith"):
            future.result()
    assert isinstance(error, PeerAborted)
    assert "InternalError" in error.what
    assert "Smith" not in str(error)


@pytest.mark.parametrize("liar", [None, 0, 2])
def test_who_holds_another_transcript_is_named(liar, tmp_path):
    def algorithm(group):
        group.agree("bb" if group.index == liar else "aa", round=1)
        return "agreed"

    results = together(local_groups(4, tmp_path), algorithm)
    if liar is None:
        assert results == ["agreed"] * 4
        return
    named = f"hospital-{liar + 1}"
    for error in results:
        # Whoever is slow hears it from the first to see it.
        assert isinstance(error, TranscriptMismatch | PeerAborted)
        assert f"{named} differs from the majority" in error.what
    first_hand = [error for error in results if isinstance(error, TranscriptMismatch)]
    assert first_hand
    assert all(error.station == named for error in first_hand)


def test_without_a_majority_nobody_is_accused(tmp_path):
    results = together(local_groups(2, tmp_path), lambda group: group.agree(group.me))
    assert any(isinstance(error, TranscriptMismatch) and not error.station for error in results)
    assert all("hospital-1, hospital-2 differ" in error.what for error in results)


PEER = """
import sys, time
from pathlib import Path
from overlay.identity.issue import create_ca
from overlay.peer import Group, Settings
settings = Settings(heartbeat=0.1, silent=0.8, handshake=2.0, parting=1.0)
with Group.join(10, path=Path(sys.argv[1]), settings=settings) as group:
    group.broadcast(b"here")
    time.sleep(30)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_peer_is_lost_by_name_and_in_time(how, tmp_path):
    paths = local_groups(3, tmp_path)
    victim = subprocess.Popen([sys.executable, "-c", PEER, str(paths[2])])

    def algorithm(group):
        group.receive(from_="hospital-3")
        group.send(group.others[0], b"both have met it")
        group.receive(from_=group.others[0])
        if group.index == 0:
            os.kill(victim.pid, how)
        began = time.monotonic()
        try:
            group.receive(from_="hospital-3", round=1, timeout=8)
        except OverlayError as error:
            return error, time.monotonic() - began
        return None

    try:
        lost = together(paths[:2], algorithm)
    finally:
        victim.kill()
        victim.wait()
    for error, seconds in lost:
        assert isinstance(error, PeerLost | PeerAborted)
        assert "hospital-3 has gone" in error.what
        assert seconds < 3
    assert any(isinstance(error, PeerLost) and error.station == "hospital-3" for error, _ in lost)


def test_a_busy_peer_is_not_lost(tmp_path):
    """The twin: silent for the algorithm, alive for the mesh."""

    def algorithm(group):
        if group.index == 0:
            time.sleep(1.3)
        return group.gather() if group.index else group.broadcast(b"x")

    assert together(local_groups(2, tmp_path), algorithm) == [None, {"hospital-1": b"x"}]


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
