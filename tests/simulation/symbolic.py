"""The protocols' own code over linear forms: what can a coalition compute from what it saw?

A vector element is a row of coefficients, modulo 2^64, over "elements x (inputs + seeds)". A
coalition sees its inputs, the seeds it made, every message it received and the result. It learns
exactly the forms in the span of that view that hold no seed: rank(view) - rank(seed part).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from simulated import names, play, randomness

from algorithms.common.masks import SEED_BYTES

PRIMES = (2, 2**31 - 1)  # equal ranks modulo 2 and a large prime: valid modulo 2^64 too


class View:
    """One run of a machine with n stations and n elements, so that no chunk is empty."""

    def __init__(self, machine, count):
        self.count = self.length = count
        self.stations = names(count)
        self.owner = {
            seed: place
            for place, station in enumerate(self.stations)
            for source in [randomness(f"0-{station}")]
            for seed in [source(SEED_BYTES) for _ in range(count)]
        }
        self.seeds = list(self.owner)
        self.width = count + len(self.seeds)
        inputs = [self.form(place) for place in range(count)]
        self.received = {place: [] for place in range(count)}
        parts = play(machine, inputs, expand=self.expand, tap=self.tap)
        truth = sum(inputs)
        assert all(np.array_equal(part.result, truth) for part in parts)
        self.result = truth

    def form(self, basis):
        """Element e of the returned vector is the basis form number `basis` of element e."""
        rows = np.zeros((self.length, self.length * self.width), dtype=np.uint64)
        for element in range(self.length):
            rows[element, element * self.width + basis] = 1
        return rows

    def expand(self, seed, length):
        assert length == self.length
        return self.form(self.count + self.seeds.index(seed))

    def tap(self, sender, send):
        payload = send.payload
        rows = self.expand(payload, self.length) if isinstance(payload, bytes) else payload.copy()
        self.received[self.stations.index(send.to)].append(rows)

    def learned(self, coalition, prime):
        """Per element: how many independent forms of inputs alone the coalition can compute."""
        rows = [self.result]
        for member in coalition:
            rows += [self.form(member), *self.received[member]]
            rows += [
                self.form(self.count + place)
                for place, seed in enumerate(self.seeds)
                if self.owner[seed] == member
            ]
        view = np.concatenate(rows).view(np.int64)
        blocks = view.reshape(len(view), self.length, self.width)
        assert ((blocks != 0).any(axis=2).sum(axis=1) <= 1).all()  # elements never mix
        out = []
        for element in range(self.length):
            block = blocks[:, element]
            block = block[(block != 0).any(axis=1)]
            # What is seen bare (own inputs, known seeds) is known: take it out of all the rest.
            bare = block[(block != 0).sum(axis=1) == 1]
            known = np.flatnonzero((bare != 0).any(axis=0))
            rest = np.delete(block, known, axis=1)
            rest = np.unique(rest[(rest != 0).any(axis=1)], axis=0)
            inputs = int((known < self.count).sum())
            seeds = rest[:, self.count - inputs :]
            out.append(inputs + rank(rest, prime) - rank(seeds, prime))
        return out

    def leaks(self, coalition):
        """Whether the coalition learns more than its own inputs and the sum."""
        found = {tuple(self.learned(coalition, prime)) for prime in PRIMES}
        assert len(found) == 1, "ranks differ between primes"
        return max(found.pop()) > len(coalition) + 1

    def smallest_leak(self):
        """Size of the smallest coalition, at least two stations outside, that leaks; or None."""
        for size in range(1, self.count - 1):
            for coalition in combinations(range(self.count), size):
                if self.leaks(coalition):
                    return size
        return None


def rank(matrix, prime):
    """Rank over the field of `prime` elements, by elimination."""
    matrix = matrix.astype(np.int64) % prime
    done = 0
    for column in range(matrix.shape[1]):
        pivots = np.flatnonzero(matrix[done:, column])
        if not pivots.size:
            continue
        pivot = done + int(pivots[0])
        matrix[[done, pivot]] = matrix[[pivot, done]]
        matrix[done] = matrix[done] * pow(int(matrix[done, column]), -1, prime) % prime
        below = done + 1 + np.flatnonzero(matrix[done + 1 :, column])
        matrix[below] = (matrix[below] - matrix[below, column, None] * matrix[done]) % prime
        done += 1
        if done == len(matrix):
            break
    return done
