"""The client helper: a result counts only when every signature, digest and value fits."""

from __future__ import annotations

import copy
import json
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "simulation"))

from mesh import FIRST_RUN, TASK, Authority, Mesh, run_all, sign

from algorithms.common.arguments import Rules
from algorithms.common.encoding import float_scale
from algorithms.common.tasks import sum_columns, sum_vector
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum
from overlay import client, errors, failures
from overlay.errors import ResultError
from overlay.wire.statement import result_digest, transcript_digest

STATIONS = ("hospital-1", "hospital-2", "hospital-3")


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture(scope="module")
def honest(authority):
    rules = Rules(float_scale(), None, "refuse")
    frame = pd.DataFrame({"x": [1.5, 2.5], "n": [1, 2]})
    outcome = run_all(
        Mesh(STATIONS, authority),
        lambda group, _: sum_columns(group, DkSecureSum, frame, None, rules, lambda line: None),
    )
    return {FIRST_RUN + place: outcome[station] for place, station in enumerate(STATIONS)}


@pytest.fixture
def results(honest):
    return json.loads(json.dumps(honest), object_hook=numbered)


def numbered(value):
    return {int(k) if k.isdigit() else k: v for k, v in value.items()}


def check(results, authority, said, station=None, task=TASK, **more):
    with pytest.raises(ResultError, match=said) as caught:
        client.verify(results, task, authority.fingerprint, **more)
    if station:
        assert station in str(caught.value)


def test_an_honest_result_verifies(results, authority):
    result = client.verify(results, TASK, authority.fingerprint)
    assert result.sums == {"x": 12.0, "n": 9}
    assert result.rows == 6
    assert result.stations == list(STATIONS)
    assert result.pinned
    assert "attestation" not in result.report
    unpinned = client.verify(results, TASK)
    assert not unpinned.pinned
    assert unpinned.ca_fingerprint == authority.fingerprint


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rows", 7),
        ("sums", {"x": 12.0, "n": 10}),
        ("error_bound", {"x": 0.0, "n": 0.0}),
        ("collusion_threshold", 2),
        ("parameters", {}),
        ("protocol", "secure_sum"),
        ("extra", 1),
    ],
)
def test_a_changed_report_is_refused(results, authority, key, value):
    results[FIRST_RUN][key] = value
    check(results, authority, "not the ones that the stations signed", "hospital-1")


def test_a_report_with_a_matching_digest_but_no_signature_for_it(results, authority):
    report = results[FIRST_RUN]
    report["rows"] = 7
    report["attestation"]["statement"]["result_sha256"] = result_digest(report)
    check(results, authority, "signature does not verify", "hospital-1")


def test_a_missing_station_is_named(results, authority):
    del results[FIRST_RUN + 1]
    check(results, authority, "hospital-2")


def test_a_missing_reporter_is_named(results, authority):
    del results[FIRST_RUN]
    check(results, authority, "hospital-1")


def test_an_empty_result_is_refused(results, authority):
    results[FIRST_RUN + 2] = {}
    check(results, authority, f"run {FIRST_RUN + 2} returned no signed statement")


@pytest.mark.parametrize("part", ["statement", "signature", "chain", "ca"])
@pytest.mark.parametrize("value", [None, "", "x", 5])
def test_a_malformed_attestation_is_refused(results, authority, part, value):
    results[FIRST_RUN]["attestation"][part] = value
    check(results, authority, str(FIRST_RUN))


def test_a_foreign_ca_is_refused(results, authority):
    other = Authority()
    run_id = FIRST_RUN + 1
    statement = results[run_id]["attestation"]["statement"]
    forged = sign(statement, *other.run("hospital-2", run_id), other.ca_pem)
    results[run_id]["attestation"] = forged
    check(results, authority, "another collaboration CA", "hospital-2")
    forged["ca"] = authority.ca_pem.decode()
    check(results, authority, "certificate does not verify", "hospital-2")


def test_all_stations_under_a_foreign_ca_are_refused(results, authority):
    other = Authority()
    for place, station in enumerate(STATIONS):
        run_id = FIRST_RUN + place
        statement = results[run_id]["attestation"]["statement"]
        keys = other.run(station, run_id)
        results[run_id]["attestation"] = sign(statement, *keys, other.ca_pem)
    check(results, authority, "another collaboration CA")
    assert not client.verify(results, TASK).pinned


def test_a_station_cannot_sign_for_another(results, authority):
    run_id = FIRST_RUN + 1
    statement = results[run_id]["attestation"]["statement"]
    keys = authority.run("hospital-1", run_id, named="hospital-2")
    results[run_id]["attestation"] = sign(statement, *keys, authority.ca_pem)
    check(results, authority, "certificate does not verify", "hospital-2")


def test_a_signature_of_another_run_is_refused(results, authority):
    results[FIRST_RUN + 2] = copy.deepcopy(results[FIRST_RUN + 1])
    check(results, authority, "another run", "hospital-2")
    moved = {run_id + 100: one for run_id, one in results.items()}
    check(moved, authority, "another run")


def test_a_result_of_another_task_is_refused(results, authority):
    check(results, authority, "another run", task=TASK + 1)


def test_stations_that_signed_different_results(results, authority):
    run_id = FIRST_RUN + 1
    statement = results[run_id]["attestation"]["statement"]
    statement["result_sha256"] = "0" * 64
    keys = authority.run("hospital-2", run_id)
    results[run_id]["attestation"] = sign(statement, *keys, authority.ca_pem)
    check(results, authority, "another result", "hospital-2")


def test_a_transcript_that_is_not_of_the_facts(results, authority):
    for place, station in enumerate(STATIONS):
        run_id = FIRST_RUN + place
        statement = results[run_id]["attestation"]["statement"]
        statement["transcript_sha256"] = results[run_id]["transcript_sha256"] = "0" * 64
        keys = authority.run(station, run_id)
        results[run_id]["attestation"] = sign(statement, *keys, authority.ca_pem)
    check(results, authority, "transcript")
    assert transcript_digest({}) != "0" * 64


def test_an_unsigned_transcript_is_refused(results, authority):
    results[FIRST_RUN + 1]["transcript_sha256"] = "0" * 64
    check(results, authority, "another transcript", "hospital-2")


def test_a_signature_from_the_future_is_refused(results, authority):
    check(results, authority, "future", now=authority.now - timedelta(hours=1))


def test_results_can_be_read_long_after_the_certificates_end(results, authority):
    late = authority.now + timedelta(days=400)
    assert client.verify(results, TASK, authority.fingerprint, now=late).rows == 6


# --- collecting -------------------------------------------------------------------------------


class Server:
    """What `vantage6.client.UserClient` 4.15 answers, as far as the helper asks."""

    def __init__(self, results, states, logs=None):
        self.states, self.results, self.looks = states, results, 0
        self.logs = logs or {}
        self.result = self

    def request(self, endpoint, params=None):
        if endpoint.startswith("organization/"):
            return {"name": f"Hospital {endpoint.removeprefix('organization/')}"}
        assert endpoint == "run"
        assert params["task_id"] == TASK
        page, size = params.get("page", 1), params.get("per_page", 10)
        states = self.states[min(self.looks, len(self.states) - 1)]
        if page * size >= len(states):
            self.looks += 1
        return {
            "data": [
                {
                    "id": FIRST_RUN + place,
                    "status": state,
                    "log": self.logs.get(place, ""),
                    "organization": {"id": place + 1},
                }
                for place, state in enumerate(states)
            ][(page - 1) * size : page * size]
        }

    def get(self, id_):
        if id_ not in self.results:
            raise KeyError("result")  # what the client makes of a refusal
        return json.dumps(self.results[id_])


def log(error):
    return f"info > Dispatching ...\nerror > Error encountered while calling secure_sum: {error}\n"


def test_collect_waits_and_verifies(results, authority):
    server = Server(
        results, [["pending"] * 3, ["active", "active", "completed"], ["completed"] * 3]
    )
    told = []
    result = client.collect(
        server, TASK, authority.fingerprint, progress=told.append, interval=0.001
    )
    assert result.rows == 6
    assert told == [
        "task 12: 3 pending",
        "task 12: 2 active, 1 completed",
        "task 12: 3 completed",
    ]


@pytest.mark.parametrize("count", [12, 101])
def test_collect_reads_the_runs_of_every_page(authority, count):
    """The server lists ten runs at a time unless it is asked otherwise, and 100 at most here."""
    stations = tuple(sorted(f"hospital-{number}" for number in range(count)))
    rules = Rules(float_scale(), None, "refuse")
    frame = pd.DataFrame({"n": [1]})
    outcome = run_all(
        Mesh(stations, authority),
        lambda group, _: sum_columns(group, SecureSum, frame, None, rules, lambda line: None),
    )
    results = {FIRST_RUN + place: outcome[station] for place, station in enumerate(stations)}
    result = client.collect(Server(results, [["completed"] * count]), TASK, authority.fingerprint)
    assert result.rows == count


def test_collect_refuses_an_incomplete_server(results, authority):
    del results[FIRST_RUN + 1]
    with pytest.raises(ResultError, match="every run"):
        client.collect(Server(results, [["completed"] * 3]), TASK, authority.fingerprint)


def test_the_cause_is_found_among_failed_runs():
    cause = errors.OutOfBounds(
        "column 'x' has a cell beyond the public bound", why="rule: |value| <= 5", next_step="y"
    )
    told = errors.PeerAborted(f"hospital-2 stopped: {cause}")
    server = Server({}, [["crashed"] * 3], {0: log(told), 1: log(cause), 2: log(told)})
    with pytest.raises(ResultError, match="OutOfBounds at hospital-2") as caught:
        client.collect(server, TASK)
    assert isinstance(caught.value.__cause__, errors.OutOfBounds)
    assert caught.value.station == "hospital-2"
    assert caught.value.why == "rule: |value| <= 5"
    assert caught.value.next_step == "y"


def test_a_lost_station_is_named_by_the_survivors(monkeypatch):
    monkeypatch.setattr(client, "GRACE", 0.05)
    lost = errors.PeerLost("hospital-3 is gone", why="silent for 8 s")
    server = Server({}, [["crashed", "crashed", "active"]], {0: log(lost), 1: log(lost)})
    with pytest.raises(ResultError, match="PeerLost") as caught:
        client.collect(server, TASK, interval=0.01)
    assert caught.value.station == "hospital-3"
    assert isinstance(caught.value.__cause__, errors.PeerLost)


def test_a_failure_without_a_reason():
    server = Server({}, [["completed", "killed by user", "not allowed"]], {1: "Killed"})
    with pytest.raises(ResultError, match="no run says why") as caught:
        client.collect(server, TASK)
    assert caught.value.station == "hospital-2, hospital-3"
    assert "hospital-2 is killed by user" in caught.value.why


def test_the_time_is_over():
    server = Server({}, [["active", "pending", "completed"]])
    with pytest.raises(ResultError, match="not finished") as caught:
        client.collect(server, TASK, timeout=0.02, interval=0.01)
    assert "hospital-2 is pending" in caught.value.why


def test_a_task_without_runs():
    class Empty:
        def request(self, endpoint, params=None):
            return {"msg": "task not found"}

    with pytest.raises(ResultError, match="no runs"):
        client.collect(Empty(), TASK)


@pytest.mark.parametrize("text", ["", "Traceback", log("ValueError: 5"), log("nothing")])
def test_a_log_without_a_named_error(text):
    assert failures.named_error(text) is None


@pytest.mark.parametrize("first", [3.9, 3 + 1e-9, "3", [3], True])
def test_a_vector_is_the_signed_one_to_the_last_digit(authority, first):
    rules = Rules(float_scale(), None, "refuse")
    frame = pd.DataFrame({"n": [1, 2]})
    outcome = run_all(
        Mesh(STATIONS, authority),
        lambda group, _: sum_vector(
            group, DkSecureSum, frame, "n", None, rules, lambda line: None, elements=1, whole=True
        ),
    )
    results = {FIRST_RUN + place: outcome[station] for place, station in enumerate(STATIONS)}
    assert client.verify(results, TASK, authority.fingerprint).report["vector"] == [3, 6]
    results[FIRST_RUN] = {**results[FIRST_RUN], "vector": [first, 6]}
    check(results, authority, "its values")
    results[FIRST_RUN] = {**results[FIRST_RUN], "vector": [[3], [6]]}
    check(results, authority, "its values")
