"""Small models of variants: one that must agree with ours, one that is published and leaks."""

from __future__ import annotations

import numpy as np

from algorithms.common.masks import SEED_BYTES
from algorithms.common.protocol import Send, SumMachine

SEGMENT, RESULT, PARTIAL, FIRST_PASS = 2, 3, 4, 10


class Segmented(SumMachine):
    """Segments travel whole; what follows once all are held is the subclass's."""

    ROUNDS = (SEGMENT, RESULT, PARTIAL, *range(FIRST_PASS, FIRST_PASS + 60))

    def start(self):
        self.segments = {}
        kept = self._vector.copy()
        sends = []
        for peer in self.peers:
            segment = self._expand(self._randomness(SEED_BYTES), len(kept))
            kept = kept - segment
            sends.append(Send(peer, SEGMENT, segment))
        self.segments[self.me] = kept
        return sends

    def _expected(self, round_):
        raise NotImplementedError  # the simulator delivers in any order

    @property
    def complete(self):
        return len(self.segments) == len(self.stations)


class TextbookDk(Segmented):
    """dk_secure_sum without seeds or chunks: whole segments, whole partials, to everybody."""

    NAME = "textbook"

    @staticmethod
    def collusion_threshold(stations):
        return stations - 2

    def start(self):
        self.partials = {}
        return super().start()

    def _accept(self, sender, round_, payload):
        (self.segments if round_ == SEGMENT else self.partials)[sender] = payload
        sends = []
        if round_ == SEGMENT and self.complete:
            self._held = sum(self.segments.values(), np.zeros_like(self._vector))
            self.partials[self.me] = self._held
            sends = [Send(peer, PARTIAL, self._held) for peer in self.peers]
        if len(self.partials) == len(self.stations):
            self.result = sum(self.partials.values(), np.zeros_like(self._vector))
        return sends


class PublishedDk(Segmented):
    """arXiv:1003.4071 as published: one unmasked pass around the ring per segment held."""

    NAME = "dk_published"

    @staticmethod
    def collusion_threshold(stations):
        return 1

    def start(self):
        self.early = []
        self.total = np.zeros_like(self._vector)
        return super().start()

    def _own(self, turn):
        """The segment added in pass `turn`: the kept one first, then those of the next stations."""
        return self.segments[self.stations[(self.index + turn) % len(self.stations)]]

    def _pass(self, turn, running):
        following = self.stations[(self.index + 1) % len(self.stations)]
        return [Send(following, FIRST_PASS + turn, running + self._own(turn))]

    def _accept(self, sender, round_, payload):
        if round_ == RESULT:
            self.result = payload
            return []
        if round_ != SEGMENT:
            self.early.append((round_ - FIRST_PASS, payload))
            return self._catch_up() if self.complete else []
        self.segments[sender] = payload
        if not self.complete:
            return []
        first = self._pass(0, np.zeros_like(self._vector)) if self.index == 0 else []
        return first + self._catch_up()

    def _catch_up(self):
        sends, self.early, waiting = [], [], self.early
        for turn, running in waiting:
            if self.index:
                sends += self._pass(turn, running)
                continue
            self.total = self.total + running
            if turn + 1 < len(self.stations):
                sends += self._pass(turn + 1, np.zeros_like(self._vector))
            else:
                self.result = self.total
                sends += [Send(peer, RESULT, self.total) for peer in self.peers]
        return sends
