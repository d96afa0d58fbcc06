"""The lines in docs/researcher.md run as they stand, here against a server that is a stub."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import vantage6.client

from overlay import client

PAGE = Path(__file__).parents[2] / "docs" / "researcher.md"


def test_the_python_lines_run_as_they_stand(monkeypatch, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    for name in set(re.findall(r'environ\["(\w+)"\]', block)):
        monkeypatch.setenv(name, "7601" if name in ("V6_PORT", "V6_COLLABORATION") else name)
        assert f"`{name}`" in PAGE.read_text()
    created = []

    class Stub:
        def __init__(self, host, port, path, log_level):
            self.organization = SimpleNamespace(list=lambda collaboration: {"data": [{"id": 5}]})
            self.task = SimpleNamespace(create=lambda **task: created.append(task) or {"id": 12})

        def authenticate(self, username, password):
            assert (username, password) == ("V6_USERNAME", "V6_PASSWORD")

        def setup_encryption(self, key):
            assert key is None

    def collect(stub, task_id, fingerprint, progress):
        assert (task_id, fingerprint) == (12, "V6_CA_FINGERPRINT")
        report = {"stations": ["a"], "rows": 3, "sums": {"x": 1.5}}
        return client.Result(12, report, "", fingerprint, pinned=True)

    monkeypatch.setattr(vantage6.client, "UserClient", Stub)
    monkeypatch.setattr(client, "collect", collect)
    exec(compile(block, str(PAGE), "exec"), {})
    assert created[0]["input_"]["method"] == "dk_secure_sum"
    assert created[0]["organizations"] == [5]
    assert capsys.readouterr().out == "['a'] 3\nx 1.5\n"
