"""The blocks of docs/algorithm-author.md run as they stand."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from overlay.peer import Group
from overlay.peer.testing import local_groups

PAGE = Path(__file__).parents[2] / "docs" / "algorithm-author.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


def test_the_ten_lines(tmp_path, monkeypatch):
    names: dict = {}
    exec(BLOCKS[0], names)
    assert len(BLOCKS[0].split("def ")[1].splitlines()) <= 10
    paths = iter(local_groups(3, tmp_path))
    columns = [np.arange(4.0), np.arange(10.0), np.array([100.0])]
    join = Group.join
    monkeypatch.setattr(Group, "join", lambda **given: join(path=next(paths), **given))
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(names["total_of_means"], columns))
    stations = ["hospital-1", "hospital-2", "hospital-3"]
    assert results == [{"mean": np.concatenate(columns).mean(), "stations": stations}] * 3


def test_the_vantage6_function_takes_its_column():
    names: dict = {"total_of_means": sum}
    exec(BLOCKS[1], names)
    assert names["mean_of"].__wrapped__({"x": [1, 2]}, "x") == 3


def test_the_block_without_stations(capsys):
    exec(BLOCKS[2], {})
    assert capsys.readouterr().out.splitlines() == [
        "['hospital-2', 'hospital-3']",
        "['hospital-1', 'hospital-3']",
        "['hospital-1', 'hospital-2']",
    ]
