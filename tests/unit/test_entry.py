"""The vantage6 functions as the container runs them: one clear line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pandas as pd
import pytest

from algorithms import sums
from overlay import client
from overlay.errors import EmptyStation, HostError, OverlayError, PeerAborted, UsageError
from overlay.peer import Group
from overlay.peer.testing import local_groups


def container(tmp_path, task, csv=None):
    """Run the image's command as a vantage6 node does: (exit code, log, result or None)."""
    (tmp_path / "input").write_text(json.dumps(task))
    env = {
        "PATH": os.environ["PATH"],
        "PKG_NAME": "algorithms.sums",
        "INPUT_FILE": str(tmp_path / "input"),
        "OUTPUT_FILE": str(tmp_path / "output"),
    }
    if csv is not None:
        (tmp_path / "data.csv").write_text(csv)
        env["USER_REQUESTED_DATABASE_LABELS"] = "default"
        env["DEFAULT_DATABASE_URI"] = str(tmp_path / "data.csv")
        env["DEFAULT_DATABASE_TYPE"] = "csv"
    done = subprocess.run(
        [sys.executable, "-m", "algorithms.run"], env=env, capture_output=True, text=True
    )
    output = tmp_path / "output"
    result = json.loads(output.read_text()) if output.exists() else None
    return done.returncode, done.stdout + done.stderr, result


def test_the_empty_task(tmp_path):
    code, log, result = container(tmp_path, {"method": "about"})
    assert code == 0, log
    assert result["protocols"] == ["secure_sum", "dk_secure_sum"]
    assert result["v6_overlay"]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kwargs": {"colums": ["x"]}}, "allowed arguments: columns, decimals, fraction_bits"),
        ({"kwargs": {"columns": "x"}}, "UsageError: columns must be a list"),
        ({"kwargs": {}}, "NotAdmitted"),
    ],
)
def test_a_mistake_is_one_line_without_traceback(tmp_path, task, said):
    code, log, result = container(tmp_path, {"method": "dk_secure_sum", **task}, "x\n1\n")
    assert code == 1
    assert result is None
    lines = [line for line in log.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in log


@pytest.mark.parametrize("function", [sums.secure_sum, sums.dk_secure_sum])
@pytest.mark.parametrize(
    "arguments",
    [
        {"columns": []},
        {"columns": ["x", "x"]},
        {"columns": [1]},
        {"columns": {"x": 1}},
        {"decimals": "2"},
        {"decimals": 2, "fraction_bits": 8},
        {"fraction_bits": 61},
        {"bound": 0},
        {"bound": -1},
        {"bound": float("nan")},
        {"bound": float("inf")},
        {"bound": {"x": "1"}},
        {"bound": True},
        {"missing": "zero"},
        {"rendezvous": 0},
        {"rendezvous": "long"},
        {"anything": 1},
    ],
)
def test_wrong_arguments_of_a_column_sum(function, arguments):
    with pytest.raises(UsageError):
        function(**arguments)


@pytest.mark.parametrize("function", [sums.secure_sum_vector, sums.dk_secure_sum_vector])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"column": ["x"]},
        {"column": "x", "length": 0},
        {"column": "x", "length": 2.5},
        {"column": "x", "elements": -1},
        {"column": "x", "elements": True},
        {"column": "x", "return_": "all"},
        {"column": "x", "decimals": 2},
    ],
)
def test_wrong_arguments_of_a_vector_sum(function, arguments):
    with pytest.raises(UsageError):
        function(**arguments)


def test_an_unexpected_error_shows_no_value(monkeypatch):
    def join(**_):
        raise ValueError("patient 4711")

    monkeypatch.setattr(Group, "join", join)
    with pytest.raises(OverlayError, match="unexpected ValueError") as caught:
        sums.secure_sum()
    assert "4711" not in str(caught.value)


@pytest.mark.parametrize(
    ("csv", "error"), [("", EmptyStation), (None, UsageError), ("a\n1\n1,2,3\n", HostError)]
)
def test_tables_that_cannot_be_read(monkeypatch, tmp_path, csv, error):
    monkeypatch.delenv("USER_REQUESTED_DATABASE_LABELS", raising=False)
    if csv is not None:
        (tmp_path / "data.csv").write_text(csv)
        monkeypatch.setenv("USER_REQUESTED_DATABASE_LABELS", "default")
        monkeypatch.setenv("DEFAULT_DATABASE_URI", str(tmp_path / "data.csv"))
        monkeypatch.setenv("DEFAULT_DATABASE_TYPE", "csv")
    with pytest.raises(error):
        sums._table()


def together(monkeypatch, tmp_path, method, tables, **arguments):
    """Call one function at three stations at once: run id -> result or error."""
    paths = local_groups(3, tmp_path)
    here = threading.local()
    join = Group.join

    def table():
        if isinstance(here.table, OverlayError):
            raise here.table
        return here.table

    monkeypatch.setattr(Group, "join", lambda **more: join(path=here.path, **more))
    monkeypatch.setattr(sums, "_table", table)
    results = {}

    def station(place):
        here.path, here.table = paths[place], tables[place]
        try:
            results[place + 1] = getattr(sums, method)(rendezvous=15, **arguments)
        except OverlayError as error:
            results[place + 1] = error

    threads = [threading.Thread(target=station, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_a_station_without_a_table_tells_the_others(monkeypatch, tmp_path):
    frame = pd.DataFrame({"n": [1]})
    tables = [frame, EmptyStation("the station's table is empty"), frame]
    results = together(monkeypatch, tmp_path, "dk_secure_sum", tables)
    assert isinstance(results[2], EmptyStation)
    for run in (1, 3):
        assert isinstance(results[run], PeerAborted)
        assert results[run].station == "hospital-2"


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("secure_sum", {}),
        ("dk_secure_sum", {"columns": ["n"], "bound": {"n": 10}}),
        ("secure_sum_vector", {"column": "n"}),
        ("dk_secure_sum_vector", {"column": "n", "length": 2, "return_": "vector"}),
    ],
)
def test_every_function_over_a_real_group(monkeypatch, tmp_path, method, arguments):
    tables = [pd.DataFrame({"n": [1, 2, 3]})] * 3
    results = together(monkeypatch, tmp_path, method, tables, **arguments)
    results = {run: json.loads(json.dumps(one)) for run, one in results.items()}
    report = client.verify(results, 1).report
    if "vector" in method:
        assert report["elements"][:2] == [3, 6]
    else:
        assert report["sums"] == {"n": 18}
        assert report["rows"] == 9
