"""secure_sum: one running total under one uniform mask travels around the ring.

Source: C. Clifton, M. Kantarcioglu, J. Vaidya, X. Lin, M. Y. Zhu, "Tools for Privacy Preserving
Distributed Data Mining", SIGKDD Explorations 4(2), 2002. The mask is uniform in the whole ring
Z_2^64, so that a running total alone tells nothing.

The first station of the roster adds a mask and passes on, each next station adds its vector, the
last returns the total to the first, which removes the mask and sends the sum to all.

Leakage: the two neighbours of a station together learn its input (their difference), and with
three stations so do the other two anyway. `collusion_threshold` is therefore 1. Everybody learns
the sum. Malicious stations can make the sum wrong.

Cost per station: the vector once, from the first station P times.
"""

from __future__ import annotations

from algorithms.common.masks import SEED_BYTES
from algorithms.common.protocol import Payload, Send, SumMachine

PASS, RESULT = 2, 3  # rounds


class SecureSum(SumMachine):
    """One station's part in the ring; see `SumMachine` for the arguments."""

    NAME = "secure_sum"
    ROUNDS = (PASS, RESULT)

    @staticmethod
    def collusion_threshold(stations: int) -> int:
        """1: any two neighbours of a third station learn its input."""
        return 1

    def start(self) -> list[Send]:
        """The first station's masked vector; nothing at the others."""
        if self.index:
            return []
        self._mask = self._expand(self._randomness(SEED_BYTES), len(self._vector))
        return [Send(self.stations[1], PASS, self._vector + self._mask)]

    def _expected(self, round_: int) -> int:
        return 0 if round_ == RESULT and self.index == 0 else 1

    def _accept(self, sender: str, round_: int, payload: Payload) -> list[Send]:
        expected = self.stations[self.index - 1] if round_ == PASS else self.stations[0]
        if sender != expected:
            raise self._refuse(sender, f"round {round_}, which is for {expected} to send")
        total = self._ring_elements(sender, payload, len(self._vector))
        if round_ == RESULT:
            self.result = total
            return []
        if self.index:
            following = self.stations[(self.index + 1) % len(self.stations)]
            return [Send(following, PASS, total + self._vector)]
        self.result = total - self._mask
        return [Send(peer, RESULT, self.result) for peer in self.peers]
