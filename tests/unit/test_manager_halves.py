"""An enrolment is whole or not at all, also when the engine fails; nobody takes a place."""

from __future__ import annotations

import pytest

from overlay import identity
from overlay.errors import EnrolmentRefused, HostError
from overlay.manager import service as service_module
from tests.unit.manager_world import Candidate, World


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(service_module, "READY_SECONDS", 0.2)
    return World(tmp_path)


def test_another_spelling_of_a_wireguard_key_is_refused(world):
    """The last character of 32 bytes in base64 has two bits that decoders drop."""
    one = world.admit("hospital-1", 1)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    key = one.wireguard_key
    alias = key[:-2] + letters[letters.index(key[-2]) ^ 1] + "="
    two = Candidate("hospital-2", 2)
    body = two.body(world.token("hospital-2"), wireguard_public_key=alias)
    with pytest.raises(EnrolmentRefused, match="WireGuard key"):
        world.service.enrol(two.caller, body)


def test_a_stations_name_belongs_to_one_organization(world):
    world.admit("hospital-1", 1)
    twin = Candidate("Hospital_1", 9)
    with pytest.raises(EnrolmentRefused, match="another organization"):
        world.service.enrol(twin.caller, twin.body(world.token()))
    assert world.registry.pending() == []


@pytest.mark.parametrize("step", ["rotate_worker_token", "remove_node"])
def test_an_engine_that_fails_at_the_end_admits_wholly_or_not_at_all(world, monkeypatch, step):
    world.admit("hospital-1", 1)
    again = Candidate("hospital-1", 1)
    token = world.token()
    answer = world.service.enrol(again.caller, again.body(token))
    world.swarm.join("n2", answer["wireguard"]["address"].split("/")[0])
    body = {"token": token, "swarm_node_id": "n2"}

    def broken(*_):
        raise HostError("the engine is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.swarm, step, broken)
        try:
            world.service.confirm(again.caller, body)
            refused = False
        except HostError:
            refused = True
    (station,) = world.registry.stations(1)
    admitted = station.client_key == identity.key_fingerprint(again.client_key.public_key())
    assert admitted is not refused
    assert bool(world.registry.pending()) is refused


def test_the_old_peer_goes_as_soon_as_wireguard_answers_again(world, monkeypatch):
    old = world.admit("hospital-1", 1)
    again = Candidate("hospital-1", 1)
    token = world.token()
    answer = world.service.enrol(again.caller, again.body(token))
    world.swarm.join("n2", answer["wireguard"]["address"].split("/")[0])

    def broken(_):
        raise HostError("WireGuard is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.service, "_set_peers", broken)
        world.service.confirm(again.caller, {"token": token, "swarm_node_id": "n2"})
    assert old.wireguard_key in {peer.public_key for peer in world.mesh}
    world.service.expire()
    assert {peer.public_key for peer in world.mesh} == {again.wireguard_key}


@pytest.mark.parametrize("step", ["nodes", "remove_node", "rotate_worker_token"])
def test_an_undo_that_failed_is_done_later(world, monkeypatch, step):
    one = Candidate("hospital-1", 1)
    world.service.enrol(one.caller, one.body(world.token()))
    world.swarm.join("n1", "10.8.0.2")
    world.time += 301

    def broken(*_):
        raise HostError("the engine is away")

    with monkeypatch.context() as patch:
        patch.setattr(world.swarm, step, broken)
        with pytest.raises(HostError):
            world.service.expire()
    world.service.expire()
    assert world.mesh == []
    assert world.swarm.members == []
    assert world.swarm.generation > 0
    assert world.registry.pending() == []
