"""No coalition of up to n-2 breaks dk_secure_sum; the ring and the published dk fall early."""

from __future__ import annotations

import numpy as np
import pytest
from published import PublishedDk
from symbolic import View

from algorithms.common.protocol import Send
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum

COUNTS = (3, 4, 5, 6, 7)


@pytest.mark.parametrize("count", COUNTS)
def test_dk_is_safe_up_to_n_minus_2(count):
    assert View(DkSecureSum, count).smallest_leak() is None
    assert DkSecureSum.collusion_threshold(count) == count - 2


@pytest.mark.parametrize("count", COUNTS[1:])
def test_the_ring_falls_to_two_neighbours(count):
    view = View(SecureSum, count)
    assert view.smallest_leak() == 2
    assert view.leaks((0, 2))
    assert view.leaks((1, 3))
    assert SecureSum.collusion_threshold(count) == 1


def test_the_ring_of_three_holds_against_one():
    assert View(SecureSum, 3).smallest_leak() is None


@pytest.mark.parametrize(("count", "size"), [(4, 2), (5, 2), (6, 2), (7, 3)])
def test_published_dk_falls_far_below_n_minus_2(count, size):
    """The paper leaves the order of segments open; here the kept one goes first."""
    assert View(PublishedDk, count).smallest_leak() == size


def test_the_test_can_fail():
    """A station that sends its plain vector is caught at once."""

    class Plain(SecureSum):
        def start(self):
            self._mask = np.zeros_like(self._vector)
            return [] if self.index else [Send(self.stations[1], 2, self._vector.copy())]

    assert View(Plain, 5).smallest_leak() == 1
