"""The same tasks over real groups: mutually authenticated TLS on loopback addresses."""

from __future__ import annotations

import json
import threading

import numpy as np
import pandas as pd
import pytest

from algorithms.common.arguments import Rules
from algorithms.common.encoding import float_scale
from algorithms.common.tasks import sum_columns, sum_vector
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum
from overlay import client
from overlay.errors import OutOfBounds, OverlayError, PeerAborted
from overlay.peer import Group
from overlay.peer.testing import local_groups

RULES = Rules(float_scale(), 1e6, "refuse")


def everywhere(paths, work):
    outcome = [None] * len(paths)

    def one(place):
        try:
            with Group.join(rendezvous=15, timeout=15, path=paths[place]) as group:
                outcome[place] = work(group, place)
        except OverlayError as error:
            outcome[place] = error

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(paths))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return outcome


def verified(outcome):
    assert not any(isinstance(one, OverlayError) for one in outcome), outcome
    texts = [json.loads(json.dumps(one)) for one in outcome]
    return client.verify({run + 1: one for run, one in enumerate(texts)}, 1)


@pytest.mark.parametrize("machine", [SecureSum, DkSecureSum])
@pytest.mark.parametrize("count", [3, 5])
def test_columns(tmp_path, machine, count):
    frames = [pd.DataFrame({"x": [place, -7], "y": [0.5] * 2}) for place in range(count)]
    outcome = everywhere(
        local_groups(count, tmp_path),
        lambda group, place: sum_columns(
            group, machine, frames[place], None, RULES, lambda line: None
        ),
    )
    result = verified(outcome)
    assert result.sums == {"x": sum(range(count)) - 7 * count, "y": float(count)}
    assert result.rows == 2 * count


@pytest.mark.parametrize("machine", [SecureSum, DkSecureSum])
def test_a_vector(tmp_path, machine):
    parts = [np.random.default_rng(place).normal(size=200_000) for place in range(3)]
    lines = []
    outcome = everywhere(
        local_groups(3, tmp_path),
        lambda group, place: sum_vector(
            group, machine, pd.DataFrame({"x": parts[place]}), "x", None, RULES, lines.append,
            elements=4, whole=False,
        ),
    )  # fmt: skip
    report = verified(outcome).report
    assert np.allclose(report["elements"], np.sum(parts, axis=0)[:4], atol=1e-9)
    assert any("round" in line for line in lines)


def test_a_refusal_ends_all_at_once(tmp_path):
    frames = [pd.DataFrame({"x": [1e9 if place == 1 else 1.0]}) for place in range(3)]
    outcome = everywhere(
        local_groups(3, tmp_path),
        lambda group, place: sum_columns(
            group, DkSecureSum, frames[place], None, RULES, lambda line: None
        ),
    )
    assert isinstance(outcome[1], OutOfBounds)
    for place in (0, 2):
        assert isinstance(outcome[place], PeerAborted)
        assert outcome[place].station == "hospital-2"
        assert "OutOfBounds" in str(outcome[place])
