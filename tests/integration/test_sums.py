"""Sums over real nodes equal the pooled truth, or end in an error that names station and rule."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from overlay.errors import ResultError
from overlay.lab import Lab

from .support import data_at, exact_sums, run, station_frame

pytestmark = pytest.mark.lab

THREE = ["hospital-1", "hospital-2", "hospital-3"]
PROTOCOLS = ["secure_sum", "dk_secure_sum"]
ROWS = "age,charge\n"


@pytest.mark.parametrize("method", PROTOCOLS)
@pytest.mark.parametrize("count", [3, 5])
def test_the_sum_is_the_pooled_truth(lab: Lab, method: str, count: int) -> None:
    stations = lab.state.stations[:count]
    assert len(stations) == count
    frames = [station_frame(lab, name) for name in stations]
    result = run(lab, method, stations=stations)
    truth = exact_sums(frames)
    assert set(result.sums) == set(truth)
    assert result.rows == sum(len(frame) for frame in frames)
    assert len({len(frame) for frame in frames}) > 1, "the parts should be unequal"
    for column, expected in truth.items():
        value = result.sums[column]
        if all(frame[column].dtype.kind in "iu" for frame in frames):
            assert isinstance(value, int)
            assert value == expected
        else:
            assert abs(Fraction(value) - expected) <= count * Fraction(1, 2**33) + Fraction(
                2**-53
            ) * abs(expected)


@pytest.mark.parametrize("method", PROTOCOLS)
def test_negative_values_unequal_rows_and_text_columns(lab: Lab, method: str) -> None:
    with data_at(
        lab,
        hospital_1="age,charge,name\n-40,1.5,ann\n17,-2.25,bob\n",
        hospital_2="age,charge,name\n9007199254740993,0.125,cid\n",
        hospital_3="age,charge,name\n-1,1e-9,dee\n-2,-7.75,eve\n-3,100.5,fay\n",
    ):
        result = run(lab, method, stations=THREE, columns=["age"])
        assert result.sums == {"age": -40 + 17 + 9007199254740993 - 6}
        both = run(lab, method, stations=THREE, columns=["charge"])
        assert both.rows == 6
        expected = sum(map(Fraction, [1.5, -2.25, 0.125, 1e-9, -7.75, 100.5]))
        assert abs(Fraction(both.sums["charge"]) - expected) <= 3 * Fraction(1, 2**33) + Fraction(
            1, 2**45
        )
        with pytest.raises(ResultError, match=r"ColumnError.*name"):
            run(lab, method, stations=THREE, columns=["name"])


REFUSED: list[tuple[str, dict[str, str], dict[str, Any], str]] = [
    ("missing", {"hospital_2": ROWS + "1,\n2,3.5\n"}, {}, r"MissingValues.*charge"),
    ("lacking", {"hospital_3": "age\n1\n2\n"}, {}, r"ColumnError.*charge"),
    ("empty", {"hospital_1": ROWS}, {}, r"EmptyStation"),
    ("bound", {"hospital_2": ROWS + "1,5001.0\n"}, {"bound": 1000}, r"OutOfBounds.*charge"),
    ("overflow", {"hospital_2": ROWS + "1,1e18\n"}, {}, r"OutOfBounds.*charge"),
    ("infinite", {"hospital_2": ROWS + "1,inf\n"}, {}, r"(OutOfBounds|MissingValues).*charge"),
    ("unknown", {}, {"columns": ["shoe_size"]}, r"ColumnError.*shoe_size"),
    ("argument", {}, {"colums": ["age"]}, r"UsageError.*colums"),
]


@pytest.mark.parametrize(
    ("data", "kwargs", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_bad_data_is_refused_by_name(
    lab: Lab, data: dict[str, str], kwargs: dict[str, Any], message: str
) -> None:
    good = {name.replace("-", "_"): ROWS + "30,100.5\n40,2.25\n" for name in THREE}
    with data_at(lab, **{**good, **data}):
        with pytest.raises(ResultError, match=message) as caught:
            run(lab, "dk_secure_sum", stations=THREE, **kwargs)
        for secret in ("5001", "1e18", "1e+18", "1000000000000000000"):
            assert secret not in str(caught.value)


def test_the_same_data_without_the_fault_is_summed(lab: Lab) -> None:
    good = {name.replace("-", "_"): ROWS + "30,100.5\n40,2.25\n" for name in THREE}
    with data_at(lab, **good):
        result = run(lab, "dk_secure_sum", stations=THREE, bound=1000)
    assert result.sums == {"age": 210, "charge": 308.25}


def test_missing_values_are_left_out_when_the_task_says_so(lab: Lab) -> None:
    good = {name.replace("-", "_"): ROWS + "30,100.5\n40,2.25\n" for name in THREE}
    with data_at(lab, **{**good, "hospital_2": ROWS + "1,\n2,3.5\n"}):
        result = run(lab, "dk_secure_sum", stations=THREE, missing="skip")
    assert result.sums == {"age": 143, "charge": 209.0}


def test_two_stations_are_too_few(lab: Lab) -> None:
    with pytest.raises(ResultError, match=r"TooFewStations"):
        run(lab, "dk_secure_sum", stations=THREE[:2])
