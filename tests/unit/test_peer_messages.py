"""Real groups on loopback: what works."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from datetime import datetime, timezone

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from overlay import identity
from overlay.errors import (
    PeerLost,
)
from overlay.peer import Group, Settings
from overlay.peer.testing import local_groups
from overlay.wire import canonical_json
from tests.unit.peer_world import FAST, together


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
