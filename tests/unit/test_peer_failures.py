"""Real groups on loopback: how each thing fails, by name and in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from overlay.errors import (
    OverlayError,
    PeerAborted,
    PeerLate,
    PeerLost,
    PeerMissing,
    TranscriptMismatch,
)
from overlay.peer.testing import local_groups
from tests.unit.peer_world import together


def test_a_missing_station_is_named_within_the_deadline(tmp_path):
    paths = local_groups(3, tmp_path)
    began = time.monotonic()
    results = together(paths[1:], lambda group: None, rendezvous=1.0)
    assert time.monotonic() - began < 4
    for error in results:
        assert isinstance(error, PeerMissing)
        assert error.station == "hospital-1"
        assert "within 1 s" in error.what
    assert any("refused" in error.why for error in results)


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
        began = time.monotonic()
        try:
            group.receive(from_=group.others[0])
            if group.index == 0:
                os.kill(victim.pid, how)
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
        # Whether it saw that itself or was told so by the other one.
        assert isinstance(error, PeerLost)
        assert error.station == "hospital-3"
        assert error.what == "hospital-3 has gone"
        assert seconds < 3


def test_a_busy_peer_is_not_lost(tmp_path):
    """The twin: silent for the algorithm, alive for the mesh."""

    def algorithm(group):
        if group.index == 0:
            time.sleep(1.3)
        return group.gather() if group.index else group.broadcast(b"x")

    assert together(local_groups(2, tmp_path), algorithm) == [None, {"hospital-1": b"x"}]
