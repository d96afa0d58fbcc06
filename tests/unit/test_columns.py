"""Columns: kinds as pandas reads them, agreed without a word about values."""

from __future__ import annotations

import io

import pandas as pd
import pytest

from algorithms.common.columns import cells, kinds_from, merge_kinds, numeric_columns
from overlay.errors import ColumnError, EmptyStation, ProtocolError


def test_kinds_as_read_from_csv():
    text = "a,b,c,d,e,f\n1,1.5,x,True,,18446744073709551615\n2,2,y,False,3,1\n"
    frame = pd.read_csv(io.StringIO(text))
    kinds = numeric_columns(frame, None, "here")
    assert kinds == {"a": "int", "b": "float", "d": "int", "e": "float", "f": "int"}
    assert numeric_columns(frame, ("f", "a"), "here") == {"f": "int", "a": "int"}


def test_nullable_and_other_types():
    frame = pd.DataFrame(
        {
            "n": pd.array([2**60 + 1, None], dtype="Int64"),
            "flag": pd.array([True, None], dtype="boolean"),
            "x": pd.array([0.5, None], dtype="Float64"),
            "kind": pd.Categorical([1, 2]),
            "when": pd.to_datetime(["2020-01-01", "2021-01-01"]),
            "z": [1j, 2j],
        }
    )
    assert numeric_columns(frame, None, "here") == {"n": "int", "flag": "int", "x": "float"}
    values, gaps = cells(frame, "n")
    assert values.tolist() == [2**60 + 1, 0]
    assert gaps.tolist() == [False, True]
    assert cells(frame, "flag")[0].dtype == bool


@pytest.mark.parametrize(
    ("requested", "error", "said"),
    [
        (("nothing",), ColumnError, "'nothing'"),
        (("text",), ColumnError, "not numeric"),
    ],
)
def test_a_refused_column_names_itself_and_the_station(requested, error, said):
    frame = pd.DataFrame({"text": ["secret"], "n": [1]})
    with pytest.raises(error, match=said) as caught:
        numeric_columns(frame, requested, "hospital-3")
    assert caught.value.station == "hospital-3"
    assert "secret" not in str(caught.value)


def test_tables_without_rows_or_numbers():
    with pytest.raises(EmptyStation):
        numeric_columns(pd.DataFrame({"n": []}), ("n",), "here")
    with pytest.raises(EmptyStation):
        numeric_columns(pd.DataFrame(), None, "here")
    with pytest.raises(ColumnError):
        numeric_columns(pd.DataFrame({"t": ["x"]}), None, "here")


def test_merging():
    both = {"a": {"n": "int", "x": "float"}, "b": {"x": "int", "n": "int"}}
    assert merge_kinds(both) == {"n": "int", "x": "float"}
    assert list(merge_kinds(both)) == ["n", "x"]
    with pytest.raises(ColumnError, match="'x'") as caught:
        merge_kinds({"a": {"n": "int", "x": "int"}, "b": {"n": "int"}, "c": {"n": "int"}})
    assert caught.value.station == "b"


@pytest.mark.parametrize("payload", [None, b"", {"n": "text"}, {"n": 1}, [], {"n": ["int"]}])
def test_a_peers_nonsense_names_it(payload):
    with pytest.raises(ProtocolError) as caught:
        kinds_from("hospital-2", payload)
    assert caught.value.station == "hospital-2"


def test_column_names_that_are_not_text():
    frame = pd.DataFrame({1: [2], "b": [0.5]})
    assert numeric_columns(frame, None, "here") == {"1": "int", "b": "float"}
    assert cells(frame, "1")[0].tolist() == [2]


@pytest.mark.parametrize("requested", [None, ("n",)])
def test_a_name_that_stands_for_two_columns_is_refused(requested):
    for names in (["n", "n"], ["1", "n", "n"]):
        frame = pd.DataFrame([[3] * len(names)], columns=names)
        with pytest.raises(ColumnError, match="twice") as caught:
            numeric_columns(frame, requested, "hospital-3")
        assert caught.value.station == "hospital-3"
    text_twice = pd.DataFrame([["a", "b", 1]], columns=["t", "t", "n"])
    assert numeric_columns(text_twice, requested, "here") == {"n": "int"}
    with pytest.raises(ColumnError, match="twice"):
        numeric_columns(pd.DataFrame([["a", 1]], columns=["n", "n"]), requested, "here")
    with pytest.raises(ColumnError, match="twice"):
        numeric_columns(pd.DataFrame([[1, 2]], columns=[1, "1"]), None, "here")
