"""The lines that researchers are given run as they stand, and print the pooled truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from overlay.lab import Lab

from .support import exact_sums, station_frame

pytestmark = pytest.mark.lab

PAGE = Path(__file__).parents[2] / "docs" / "researcher.md"


def test_the_page_runs_as_it_stands(lab: Lab, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    script = tmp_path / "block.py"
    script.write_text(block)
    server, _, port = lab.state.server_url.rpartition(":")
    settings = {
        "V6_SERVER": server,
        "V6_PORT": port,
        "V6_USERNAME": lab.state.researcher["username"],
        "V6_PASSWORD": lab.state.researcher["password"],
        "V6_COLLABORATION": str(lab.state.collaboration_id),
        "V6_IMAGE": lab.state.image,
        "V6_CA_FINGERPRINT": lab.state.ca_fingerprint,
    }
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    frames = [station_frame(lab, station) for station in lab.state.stations]
    printed = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    for column, expected in exact_sums(frames).items():
        assert float(printed[column]) == pytest.approx(float(expected), abs=1e-6, rel=1e-12)
    assert f"] {sum(len(frame) for frame in frames)}\n" in done.stdout
