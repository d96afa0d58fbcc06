"""One lab for all tests: brought up once, taken down once, and its traces compared."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from overlay.lab import Lab, down
from tests.integration.traces import traces

STATIONS = 5


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab of five stations; `V6_OVERLAY_KEEP_LAB=1` leaves it up for the next test run."""
    keep = os.environ.get("V6_OVERLAY_KEEP_LAB") == "1"
    if not keep:
        # Whatever a crashed run left is not this run's trace.
        down()
    before = traces()
    yield Lab.up(STATIONS, progress=print)
    if keep:
        return
    down()
    after = traces()
    left = {kind: sorted(after[kind] - before[kind]) for kind in before}
    gone = {kind: sorted(before[kind] - after[kind]) for kind in before}
    assert not any(left.values()), f"`lab down` left: {left}"
    assert not any(v for k, v in gone.items() if k not in ("namespaces", "processes")), gone


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything that uses the lab carries its mark, so that a fast run can leave it out."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.lab)
