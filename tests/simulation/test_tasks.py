"""Whole runs in one process: tables in, signed and verified sums out, refusals by name."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from mesh import FIRST_RUN, TASK, Authority, Mesh, run_all

from algorithms.common.arguments import Rules
from algorithms.common.encoding import float_scale
from algorithms.common.tasks import sum_columns, sum_vector
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum
from overlay import client
from overlay.errors import (
    ColumnError,
    EmptyStation,
    MissingValues,
    OutOfBounds,
    PeerAborted,
    ProtocolError,
    TooFewStations,
)

MACHINES = (SecureSum, DkSecureSum)


@pytest.fixture(scope="module")
def authority():
    return Authority()


def rules(bits=None, decimals=None, bound=None, missing="refuse"):
    return Rules(float_scale(bits, decimals), bound, missing)


def column_run(authority, frames, machine=DkSecureSum, columns=None, task_rules=None, mesh=None):
    stations = [f"hospital-{place + 1}" for place in range(len(frames))]
    tables = dict(zip(stations, frames, strict=True))
    mesh = mesh or Mesh(stations, authority)
    asked = task_rules or rules()

    def work(group, station):
        own = asked[station] if isinstance(asked, dict) else asked
        return sum_columns(group, machine, tables[station], columns, own, lambda line: None)

    return run_all(mesh, work)


def as_results(outcome):
    """As the server hands them out: run id -> JSON read back."""
    texts = [json.dumps(outcome[station]) for station in sorted(outcome)]
    return {FIRST_RUN + place: json.loads(text) for place, text in enumerate(texts)}


def tables(count, seed=3):
    source = np.random.default_rng(seed)
    return [
        pd.DataFrame(
            {
                "area": source.normal(0, 500, rows),
                "label": ["text"] * rows,
                "n": source.integers(-(2**40), 2**40, rows),
                "flag": source.integers(0, 2, rows).astype(bool),
            }
        )
        for rows in range(3, 3 + count)
    ]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("count", [3, 5, 10])
def test_sums_equal_the_pooled_truth(authority, machine, count):
    frames = tables(count)
    outcome = column_run(authority, frames, machine)
    result = client.verify(as_results(outcome), TASK, authority.fingerprint)
    report = outcome["hospital-1"]
    pooled = pd.concat(frames)
    assert result.pinned
    assert result.rows == len(pooled)
    assert list(result.sums) == ["area", "flag", "n"]
    assert result.sums["n"] == sum(map(int, pooled["n"]))
    assert result.sums["flag"] == int(pooled["flag"].sum())
    assert isinstance(result.sums["n"], int)
    exact = sum(map(Fraction, pooled["area"].tolist()), Fraction(0))
    assert abs(Fraction(result.sums["area"]) - exact) <= Fraction(report["error_bound"]["area"])
    assert abs(Fraction(result.sums["area"]) - exact) <= Fraction(count, 2**33)
    assert report["error_bound"]["n"] == 0
    assert report["collusion_threshold"] == (1 if machine is SecureSum else count - 2)
    others = [outcome[station] for station in list(outcome) if station != "hospital-1"]
    assert all(
        set(one) == {"protocol", "station", "transcript_sha256", "attestation"} for one in others
    )


def test_known_faults_of_other_libraries(authority):
    """CrypTen decodes this to -3; Flower clips inputs beyond 8 and is off by hundreds."""
    frames = [pd.DataFrame({"x": [value], "y": [393.0]}) for value in (-131071 / 65536, 0.0, 0.0)]
    report = column_run(authority, frames)["hospital-1"]
    assert report["sums"] == {"x": -131071 / 65536, "y": 3 * 393.0}


def test_decimals_give_decimal_sums(authority):
    frames = [pd.DataFrame({"price": [0.1] * 10}), *[pd.DataFrame({"price": [0.2]})] * 2]
    report = column_run(authority, frames, task_rules=rules(decimals=2))["hospital-1"]
    assert report["sums"] == {"price": 1.4}


@pytest.mark.parametrize("machine", MACHINES)
def test_no_value_crosses_unmasked(authority, machine):
    """Where every input is the same, no message repeats it, its total or the row count."""
    mesh = Mesh(["hospital-1", "hospital-2", "hospital-3"], authority)
    frames = [pd.DataFrame({"x": [5] * 77})] * 3
    column_run(authority, frames, machine, mesh=mesh)
    results = {77 * 3, 5 * 77 * 3}
    for _, _, round_, payload in mesh.sent:
        if isinstance(payload, np.ndarray):
            assert not {5, 77, 385} & set(payload.tolist())
            if round_ == 2:
                assert not results & set(payload.tolist())
        elif isinstance(payload, dict):
            assert "77" not in json.dumps(payload)


def refusal(outcome, station, kind):
    """Nobody has a result, the cause is named with its station, and everybody was told."""
    named = [one for one in outcome.values() if isinstance(one, kind) and one.station == station]
    assert named, outcome
    for one in outcome.values():
        assert isinstance(one, kind | PeerAborted), outcome
        assert one.station == station or station in str(one)
    return str(named[0])


def test_a_lacking_column_names_the_station(authority):
    frames = tables(3)
    frames[1] = frames[1].drop(columns="n")
    assert "'n'" in refusal(column_run(authority, frames), "hospital-2", ColumnError)
    asked = column_run(authority, frames, columns=("area", "n"))
    assert "'n'" in refusal(asked, "hospital-2", ColumnError)


def test_a_text_column_at_one_station_is_named(authority):
    frames = tables(3)
    frames[2]["area"] = "unknown"
    refusal(column_run(authority, frames), "hospital-3", ColumnError)
    refusal(column_run(authority, frames, columns=("area",)), "hospital-3", ColumnError)


def test_an_empty_station_is_named(authority):
    frames = tables(3)
    frames[1] = frames[1].iloc[:0]
    refusal(column_run(authority, frames), "hospital-2", EmptyStation)


def test_values_never_show_in_a_refusal(authority):
    frames = tables(3)
    frames[0].loc[1, "area"] = 123456.75
    for asked in (rules(bound={"area": 1e5}), rules(bits=45)):
        text = refusal(column_run(authority, frames, task_rules=asked), "hospital-1", OutOfBounds)
        assert "'area'" in text
        assert "123456" not in text


def test_missing_values(authority):
    frames = tables(4)
    frames[2].loc[0, "area"] = float("nan")
    refusal(column_run(authority, frames), "hospital-3", MissingValues)
    report = column_run(authority, frames, task_rules=rules(missing="skip"))["hospital-1"]
    pooled = pd.concat(frames)
    assert math.isclose(report["sums"]["area"], pooled["area"].sum(), abs_tol=1e-9)
    assert report["counts"] == {"area": len(pooled) - 1, "n": len(pooled), "flag": len(pooled)}
    frames[2].loc[0, "area"] = float("inf")
    refused = column_run(authority, frames, task_rules=rules(missing="skip"))
    refusal(refused, "hospital-3", OutOfBounds)


def test_mixed_kinds_become_float(authority):
    whole = pd.DataFrame({"x": [2**53 + 1]})
    frames = [whole, whole, pd.DataFrame({"x": [0.5]})]
    report = column_run(authority, frames, task_rules=rules(bits=1))["hospital-1"]
    assert report["parameters"]["columns"] == {"x": "float"}
    assert report["sums"]["x"] == (2**55 + 5) / 2


def test_two_stations_are_refused(authority):
    outcome = column_run(authority, tables(2))
    assert all(isinstance(one, TooFewStations | PeerAborted) for one in outcome.values())


def test_stations_with_other_arguments_refuse(authority):
    own = {f"hospital-{place}": rules(bound=1e9 if place == 2 else 2e9) for place in (1, 2, 3)}
    outcome = column_run(authority, tables(3), task_rules=own)
    assert any(isinstance(one, ProtocolError) for one in outcome.values())
    assert all(isinstance(one, ProtocolError | PeerAborted) for one in outcome.values())


def vector_run(authority, frames, machine=DkSecureSum, length=None, whole=False, **more):
    mesh = Mesh([f"hospital-{place + 1}" for place in range(len(frames))], authority)
    named = dict(zip(mesh.stations, frames, strict=True))

    def work(group, station):
        return sum_vector(
            group, machine, named[station], "x", length, rules(**more), lambda line: None,
            elements=3, whole=whole,
        )  # fmt: skip

    return run_all(mesh, work)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("whole", [False, True])
def test_a_vector_is_summed_row_by_row(authority, machine, whole):
    source = np.random.default_rng(5)
    parts = [source.normal(size=10_000) for _ in range(4)]
    outcome = vector_run(authority, [pd.DataFrame({"x": part}) for part in parts], machine,
                         whole=whole)  # fmt: skip
    result = client.verify(as_results(outcome), TASK, authority.fingerprint)
    report = result.report
    truth = np.sum(parts, axis=0)
    assert report["length"] == 10_000
    assert np.abs(np.array(report["elements"]) - truth[:3]).max() <= report["error_bound"] + 1e-12
    assert ("vector" in report) == whole
    if whole:
        assert np.abs(np.array(report["vector"]) - truth).max() <= report["error_bound"] + 1e-12
    else:
        assert all(len(json.dumps(one)) < 10_000 for one in outcome.values())


def test_a_vector_of_another_length_is_named(authority):
    frames = [pd.DataFrame({"x": np.arange(rows)}) for rows in (9, 8, 9)]
    refusal(vector_run(authority, frames), "hospital-2", ColumnError)
    refusal(vector_run(authority, frames, length=9), "hospital-2", ColumnError)
    report = vector_run(authority, frames, length=8)["hospital-1"]
    assert report["elements"] == [0, 3, 6]
    assert report["dtype"] == "int64"


def test_a_tampered_vector_is_refused(authority):
    frames = [pd.DataFrame({"x": np.arange(4.0)})] * 3
    results = as_results(vector_run(authority, frames, whole=True))
    results[FIRST_RUN]["vector"][3] += 1
    with pytest.raises(client.ResultError, match="hospital-1"):
        client.verify(results, TASK, authority.fingerprint)
