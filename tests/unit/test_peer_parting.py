"""How a station leaves: what it tells whom, who is told by name of whom, and how long it takes."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from overlay.errors import (
    ColumnError,
    OutOfBounds,
    PeerAborted,
    PeerLate,
    PeerLost,
    PeerMissing,
    ProtocolError,
    TranscriptMismatch,
    UsageError,
)
from overlay.peer import Group, parting
from overlay.peer import roster as rosters
from overlay.peer.testing import local_groups
from overlay.wire import parse_json
from tests.unit.peer_world import FAST, together

LOST = PeerLost("hospital-2 has gone", why="it was silent", station="hospital-2")


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


# --- who was never met ----------------------------------------------------------------------


def stop_while_waiting(path, error, seconds, stopping):
    """Join, and fail with `error` while others are still missing; how long leaving took."""

    def progress(text):
        began.append(time.monotonic())
        stopping.set()
        raise error

    began = []
    with pytest.raises(type(error)):
        Group.join(20, progress=progress, path=path, settings=replace(FAST, parting=seconds))
    return time.monotonic() - began[0]


@pytest.mark.parametrize(("first", "late"), [(0, 1), (1, 0)], ids=["dials", "is dialled"])
def test_who_arrives_while_another_stops_is_told_at_once(first, late, tmp_path):
    paths, stopping = local_groups(2, tmp_path), threading.Event()
    error = OutOfBounds("the total is too large")
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop_while_waiting, paths[first], error, 8.0, stopping)
        assert stopping.wait(5)
        time.sleep(0.3)
        began = time.monotonic()
        (told,) = together(paths[late : late + 1], lambda group: group.gather(), rendezvous=20)
        assert time.monotonic() - began < 4
        # Nobody is missing any more, so it does not wait for the end of its time.
        assert stopped.result() < 6
    assert isinstance(told, PeerAborted)
    assert told.station == paths[first].name
    assert "OutOfBounds: the total is too large" in told.what


def test_who_arrives_is_told_who_was_lost_before(tmp_path):
    paths, stopping = local_groups(3, tmp_path), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stop_while_waiting, paths[0], LOST, 3.0, stopping)
        assert stopping.wait(5)
        began = time.monotonic()
        (told,) = together(paths[2:], lambda group: group.gather(), rendezvous=20)
        assert time.monotonic() - began < 4
    assert isinstance(told, PeerLost)
    assert told.station == "hospital-2"


def test_who_never_arrives_is_not_waited_for_longer(tmp_path):
    path = local_groups(2, tmp_path)[0]
    assert stop_while_waiting(path, LOST, 0.5, threading.Event()) < 1.5


@pytest.mark.parametrize("error", [None, ColumnError("no such column")])
def test_a_group_that_has_met_ends_at_once(error, tmp_path):
    ends = {}

    def algorithm(group):
        group.exchange(dict.fromkeys(group.others, b"met"))
        ends[group.me] = time.monotonic()
        if error is not None and group.index == 1:
            raise error
        if error is not None:
            group.gather(round=1)

    patient = replace(FAST, parting=8.0)
    together(local_groups(3, tmp_path), algorithm, settings=patient)
    assert time.monotonic() - max(ends.values()) < 2


# --- what an abort means --------------------------------------------------------------------


@pytest.fixture
def hear(tmp_path):
    """What hospital-2 of four makes of a station's abort."""
    roster = rosters.load(local_groups(4, tmp_path)[1])

    def heard(error, sender="hospital-1"):
        return parting.decode(parse_json(parting.encode(error, sender)), sender, roster)

    return heard


@pytest.mark.parametrize("kind", [PeerLost, PeerMissing, PeerLate])
@pytest.mark.parametrize(
    ("about", "named"),
    [
        ("hospital-3", "hospital-3"),
        ("hospital-3, hospital-4", "hospital-3, hospital-4"),
        ("hospital-2, hospital-3", "hospital-3"),  # who hears it is not away
    ],
)
def test_all_name_the_station_that_is_away(kind, about, named, hear):
    error = kind(f"{about} is away", why="value 42", station=about)
    for sender in ("hospital-1", "hospital-4" if "4" not in about else "hospital-1"):
        error = hear(error, sender)  # passed on, it stays what it is
        assert type(error) is kind
        assert error.station == named
        assert error.what == f"{about} is away"
        assert error.why == f"{sender} reported it"


@pytest.mark.parametrize("about", ["hospital-2", "hospital-1", "hospital-1, hospital-3", "x", ""])
def test_who_hears_of_itself_or_of_nobody_names_the_teller(about, hear):
    error = hear(PeerLost(f"{about} has gone", station=about))
    assert isinstance(error, PeerAborted)
    assert error.station == "hospital-1"
    assert f"hospital-1 stopped the run: PeerLost: {about} has gone" in error.what


@pytest.mark.parametrize("kind", [OutOfBounds, ColumnError, TranscriptMismatch, ProtocolError])
def test_any_other_reason_is_its_tellers(kind, hear):
    error = hear(kind("a reason", station="hospital-3"))
    passed_on = hear(error, "hospital-4")
    for one in (error, passed_on):
        assert isinstance(one, PeerAborted)
        assert one.station == "hospital-1"
        assert one.what == f"hospital-1 stopped the run: {kind.__name__}: a reason"
    assert passed_on.why == "hospital-4 passed this on"


def test_the_others_name_the_lost_station_and_it_names_who_says_so(tmp_path):
    def algorithm(group):
        if group.index == 0:
            raise LOST
        if group.index == 1:
            time.sleep(0.5)
        group.gather()

    _, accused, other = together(local_groups(3, tmp_path), algorithm)
    assert isinstance(accused, PeerAborted)
    assert "PeerLost: hospital-2 has gone" in accused.what
    assert isinstance(other, PeerLost)
    assert other.station == "hospital-2"
    assert other.why == "hospital-1 reported it"


@pytest.mark.parametrize(
    "body",
    [{}, {"error": "PeerLost"}, {"error": "not a name", "what": ""}, {"error": 1, "what": 2}],
)
def test_an_abort_of_another_form_is_refused(body, tmp_path):
    with pytest.raises(ProtocolError, match="gives no reason"):
        parting.decode(body, "hospital-1", rosters.load(local_groups(2, tmp_path)[1]))
