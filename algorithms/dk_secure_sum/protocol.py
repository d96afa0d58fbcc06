"""dk_secure_sum: a coalition of up to n-2 of n stations learns nothing but the sum.

Source: R. Sheikh, B. Kumar, D. K. Mishra, "A Distributed k-Secure Sum Protocol for Secure
Multi-Party Computations", arXiv:1003.4071 (2010): every station breaks its input into one segment
per station, keeps one and hands one to each of the others before the sum starts. As published,
the segments are then summed in one pass around the ring per segment, which two neighbours break.
Here each station first adds the segments that it holds, and only this one masked partial goes on.

A segment that travels is a 32-byte seed that both ends expand to a uniform vector; the kept
segment is the remainder. The masked partials are summed by reduce-scatter and all-gather: the
vector is cut into one chunk per station, station c receives everybody's chunk c, adds them up and
sends the sum to all.

Leakage: everybody learns the sum. With at least two stations outside a coalition, the seeds
between those two hide their inputs from it, up to their sum. `collusion_threshold` is n-2.
A malicious station can make the sum wrong, by its own input or by its reduced chunk.

Cost per station: 2 (P-1)/P of the vector and P-1 seeds.
"""

from __future__ import annotations

import numpy as np

from algorithms.common.masks import SEED_BYTES
from algorithms.common.protocol import Payload, Send, SumMachine

SEGMENT, PARTIAL, SUM = 2, 3, 4  # rounds


class DkSecureSum(SumMachine):
    """One station's part; see `SumMachine` for the arguments."""

    NAME = "dk_secure_sum"
    ROUNDS = (SEGMENT, PARTIAL, SUM)

    @staticmethod
    def collusion_threshold(stations: int) -> int:
        """n-2: as long as two stations stay outside the coalition, it learns only the sum."""
        return stations - 2

    def start(self) -> list[Send]:
        """One segment to every other station."""
        length, count = len(self._vector), len(self.stations)
        edges = [length * place // count for place in range(count + 1)]
        self._chunk = {
            station: slice(edges[place], edges[place + 1])
            for place, station in enumerate(self.stations)
        }
        self._segments = self._partials = self._sums = 0
        self._held = self._vector.copy()
        self._reduced = np.zeros_like(self._held[self._chunk[self.me]])
        self._total = np.empty_like(self._held)
        sends = []
        for peer in self.peers:
            seed = self._randomness(SEED_BYTES)
            self._held -= self._expand(seed, length)
            sends.append(Send(peer, SEGMENT, seed))
        return sends

    def _expected(self, round_: int) -> int:
        return len(self.peers)

    def _accept(self, sender: str, round_: int, payload: Payload) -> list[Send]:
        if round_ == SEGMENT:
            self._held += self._expand(self._seed(sender, payload), len(self._held))
            self._segments += 1
            return self._masked_partials() if self._has_all_segments else []
        if round_ == PARTIAL:
            self._reduced += self._ring_elements(sender, payload, len(self._reduced))
            self._partials += 1
            return self._reduced_chunk()
        chunk = self._total[self._chunk[sender]]
        chunk[...] = self._ring_elements(sender, payload, len(chunk))
        self._sums += 1
        self._finish()
        return []

    @property
    def _has_all_segments(self) -> bool:
        return self._segments == len(self.peers)

    def _masked_partials(self) -> list[Send]:
        """Every reducer's chunk of the vector that all held segments have been added to."""
        self._reduced += self._held[self._chunk[self.me]]
        return [
            Send(peer, PARTIAL, self._held[self._chunk[peer]]) for peer in self.peers
        ] + self._reduced_chunk()

    def _reduced_chunk(self) -> list[Send]:
        if not self._has_all_segments or self._partials < len(self.peers):
            return []
        self._total[self._chunk[self.me]] = self._reduced
        self._finish()
        return [Send(peer, SUM, self._reduced) for peer in self.peers]

    def _finish(self) -> None:
        own_reduced = self._has_all_segments and self._partials == len(self.peers)
        if own_reduced and self._sums == len(self.peers):
            self.result = self._total
