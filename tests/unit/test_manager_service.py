"""The rules of enrolment, each with the refusal that keeps it."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay import identity
from overlay.errors import EnrolmentRefused, HostError
from overlay.manager import service as service_module
from overlay.manager.messages import Caller, EnrolRequest
from tests.unit.manager_world import Candidate, World, wireguard_key


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(service_module, "READY_SECONDS", 0.2)
    return World(tmp_path)


def test_a_station_joins(world):
    one = Candidate("Hospital 1", 1)
    token = world.token()
    answer = world.service.enrol(one.caller, one.body(token))
    assert answer["station"] == "hospital-1"
    assert answer["collaboration_id"] == 1
    assert answer["wireguard"]["address"] == "10.8.0.2/16"
    assert [peer["station"] for peer in answer["wireguard"]["peers"]] == ["central"]
    assert answer["swarm"] == {"manager": "10.8.0.1:2377", "worker_token": "SWMTKN-0"}
    assert answer["network"] == {"name": "v6-overlay-c1", "subnet": "10.9.1.0/24"}
    assert [(p.address, p.endpoint) for p in world.mesh] == [("10.8.0.2", "192.0.2.1:51820")]
    assert world.registry.stations() == []

    # The certificate works: a run that the station signs is verified by the collaboration CA.
    station_cert = identity.load_cert(answer["station_certificate"].encode())
    now = datetime.fromtimestamp(world.time, timezone.utc)
    chain, _ = identity.issue_run(
        station_cert,
        one.key,
        station="hospital-1",
        collaboration_id=1,
        task_id=1,
        run_id=1,
        now=now,
    )
    assert identity.verify_chain(chain, answer["ca"].encode(), now).station == "hospital-1"

    world.swarm.join("n1", "10.8.0.2")
    revision = world.registry.revision()
    done = world.service.confirm(one.caller, {"token": token, "swarm_node_id": "n1"})
    assert done["revision"] == revision + 1
    assert [s.swarm_node_id for s in world.registry.stations(1)] == ["n1"]
    assert world.swarm.generation == 1  # the token that the station saw is worthless now
    # Its answer may have been lost: the very same confirmation is answered again, nothing else is.
    assert world.service.confirm(one.caller, {"token": token, "swarm_node_id": "n1"}) == done
    with pytest.raises(EnrolmentRefused):
        world.service.confirm(one.caller, {"token": token, "swarm_node_id": "n2"})


def test_a_token_is_used_once(world):
    one = Candidate("hospital-1", 1)
    token = world.token()
    world.service.enrol(one.caller, one.body(token))
    world.swarm.join("n1", "10.8.0.2")
    world.service.confirm(one.caller, {"token": token, "swarm_node_id": "n1"})
    for candidate in (one, Candidate("hospital-1", 1)):
        with pytest.raises(EnrolmentRefused, match="was used"):
            world.service.enrol(candidate.caller, candidate.body(token))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda w: w.token(life=-1), "has expired"),
        (lambda w: w.token("hospital-2"), "for another station"),
        (lambda w: w.token(collaboration=2), "for another station"),
        (lambda w: "x" * 43, "unknown"),
        (lambda w: (w.token(), w.token())[0], "unknown"),
    ],
)
def test_a_wrong_token_is_refused_and_leaves_nothing(world, make, reason):
    one = Candidate("hospital-1", 1)
    with pytest.raises(EnrolmentRefused, match=reason):
        world.service.enrol(one.caller, one.body(make(world)))
    assert world.registry.pending() == []
    assert world.mesh == []


def test_a_collaboration_without_overlay_is_refused(world):
    stranger = Candidate("hospital-1", 1, collaboration=3)
    token = world.registry.new_token(3, "hospital-1", world.time + 60)
    with pytest.raises(EnrolmentRefused, match="no overlay here"):
        world.service.enrol(stranger.caller, stranger.body(token))


def test_only_the_same_keys_may_retry(world):
    one = Candidate("hospital-1", 1)
    token = world.token()
    first = world.service.enrol(one.caller, one.body(token))
    again = world.service.enrol(one.caller, one.body(token))
    assert again["wireguard"]["address"] == first["wireguard"]["address"]
    thief = Candidate("hospital-1", 1)
    with pytest.raises(EnrolmentRefused, match="another enrolment"):
        world.service.enrol(thief.caller, thief.body(token))
    with pytest.raises(EnrolmentRefused, match="another enrolment"):
        world.service.enrol(one.caller, one.body(world.token()))


def test_abort_and_expiry_leave_nothing_and_free_the_token(world):
    one = Candidate("hospital-1", 1)
    token = world.token()
    for end in ("abort", "expire"):
        world.service.enrol(one.caller, one.body(token))
        world.swarm.join(f"half-{end}", "10.8.0.2")
        generation = world.swarm.generation
        if end == "abort":
            world.service.abort(one.caller, {"token": token})
        else:
            world.time += service_module.PENDING_SECONDS + 1
            world.service.expire()
        assert world.registry.pending() == []
        assert world.mesh == []
        assert world.swarm.members == []
        assert world.swarm.generation == generation + 1
        with pytest.raises(EnrolmentRefused, match="no open enrolment"):
            world.service.confirm(one.caller, {"token": token, "swarm_node_id": "x"})


def test_confirm_looks_at_the_swarm_itself(world):
    one = Candidate("hospital-1", 1)
    token = world.token()
    world.service.enrol(one.caller, one.body(token))
    world.swarm.join("elsewhere", "192.0.2.1")
    world.swarm.join("boss", "10.8.0.2", role="manager")
    world.swarm.join("down", "10.8.0.2", status="down")
    for node in ("elsewhere", "boss", "down", "absent"):
        with pytest.raises(EnrolmentRefused):
            world.service.confirm(one.caller, {"token": token, "swarm_node_id": node})
    assert world.registry.stations() == []


def test_another_node_cannot_finish_or_end_a_strangers_enrolment(world):
    one = Candidate("hospital-1", 1)
    token = world.token()
    world.service.enrol(one.caller, one.body(token))
    world.swarm.join("n1", "10.8.0.2")
    other = Candidate("hospital-2", 2).caller
    with pytest.raises(EnrolmentRefused):
        world.service.confirm(other, {"token": token, "swarm_node_id": "n1"})
    with pytest.raises(EnrolmentRefused):
        world.service.abort(other, {"token": token})
    assert len(world.registry.pending()) == 1


def test_a_station_that_joins_anew_replaces_itself(world):
    old = world.admit("hospital-1", 1)
    new = Candidate("hospital-1", 1)
    token = world.token()
    answer = world.service.enrol(new.caller, new.body(token))
    assert {p.public_key for p in world.mesh} == {old.wireguard_key, new.wireguard_key}
    world.swarm.join("n2", answer["wireguard"]["address"].split("/")[0])
    world.service.confirm(new.caller, {"token": token, "swarm_node_id": "n2"})
    assert [s.swarm_node_id for s in world.registry.stations(1)] == ["n2"]
    assert [p.public_key for p in world.mesh] == [new.wireguard_key]
    assert world.swarm.removed == ["swarm-1"]


def test_a_wireguard_key_belongs_to_one_organization(world):
    one = world.admit("hospital-1", 1)
    two = Candidate("hospital-2", 2)
    two.wireguard_key = one.wireguard_key
    with pytest.raises(EnrolmentRefused, match="belongs to another"):
        world.service.enrol(two.caller, two.body(world.token("hospital-2")))
    # The same hospital in a second collaboration is the same host: it keeps its address.
    again = Candidate("hospital-1", 1, collaboration=2)
    again.wireguard_key = one.wireguard_key
    answer = world.service.enrol(again.caller, again.body(world.token(collaboration=2)))
    assert answer["wireguard"]["address"] == "10.8.0.2/16"
    assert [p["station"] for p in answer["wireguard"]["peers"]] == ["central"]


def test_state_shows_one_collaboration_and_wakes_on_a_change(world):
    world.admit("hospital-1", 1)
    world.admit("outsider", 9, collaboration=2)
    me = world.registry.station(1, "hospital-1")
    seen = world.service.state(me, 0, 0)
    assert [p["station"] for p in seen["peers"]] == ["central"]
    assert seen["stations"] == [{"station": "hospital-1", "organization_id": 1, "node_id": 101}]
    began = time.monotonic()
    assert world.service.state(me, seen["revision"], 0.1)["revision"] == seen["revision"]
    assert time.monotonic() - began >= 0.1
    timer = threading.Timer(0.1, world.admit, ("hospital-2", 2))
    timer.start()
    later = world.service.state(me, seen["revision"], 20)
    timer.join()
    assert [p["station"] for p in later["peers"]] == ["central", "hospital-2"]
    assert time.monotonic() - began < 5


def test_a_broken_mesh_admits_nobody(world, monkeypatch):
    one = Candidate("hospital-1", 1)

    def fail(peers):
        raise HostError("wireguard-go does not answer")

    monkeypatch.setattr(world.service, "_set_peers", fail)
    with pytest.raises(HostError):
        world.service.enrol(one.caller, one.body(world.token()))
    assert world.registry.pending() == []


def test_no_double_admission_under_a_crowd(world):
    """50 hosts with the same stolen token at once: one is let in, 49 are refused."""
    token = world.token()
    crowd = [Candidate("hospital-1", 1) for _ in range(50)]

    def attempt(candidate):
        try:
            return world.service.enrol(candidate.caller, candidate.body(token))
        except EnrolmentRefused:
            return None

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answer in pool.map(attempt, crowd) if answer]
    assert len(answers) == 1
    assert len(world.registry.pending()) == len(world.mesh) == 1


def test_many_stations_get_different_addresses(world):
    crowd = [(Candidate(f"h-{n}", n), world.token(f"h-{n}")) for n in range(2, 42)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda c: world.service.enrol(c[0].caller, c[0].body(c[1])), crowd))
    assert len({a["wireguard"]["address"] for a in answers}) == 40


def test_the_registry_keeps_no_token_and_is_private(world, tmp_path):
    token = world.token()
    path = tmp_path / "registry.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    rows = sqlite3.connect(path).execute("SELECT hash FROM tokens").fetchall()
    assert rows
    assert all(token not in row for row in rows)
    assert token.encode() not in path.read_bytes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(body=JSON, field=st.sampled_from(["csr", "client_csr", "wireguard_public_key", "address"]))
def test_garbage_is_refused_by_name(world, body, field):
    caller = Caller(101, 1, "hospital-1", 1, "192.0.2.1")
    good = Candidate("hospital-1", 1).body("t") if field == "address" else {"wireguard_port": 1}
    for request in (body, good | {field: body}):
        try:
            parsed = EnrolRequest.parse(request, caller.remote_address)
        except EnrolmentRefused:
            continue
        assert parsed.endpoint.endswith(":51820")


def test_one_key_for_two_purposes_is_refused(world):
    one = Candidate("hospital-1", 1)
    one.client_key = one.key
    with pytest.raises(EnrolmentRefused, match="same key"):
        world.service.enrol(one.caller, one.body(world.token()))


@pytest.mark.parametrize("key", ["", "AAAA", wireguard_key() + "A", "A" * 43 + "="])
def test_bad_wireguard_keys_are_refused(world, key):
    one = Candidate("hospital-1", 1)
    with pytest.raises(EnrolmentRefused):
        world.service.enrol(one.caller, one.body(world.token(), wireguard_public_key=key))
