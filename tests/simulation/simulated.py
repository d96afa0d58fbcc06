"""Run protocol machines in one process: any message order, any of several vector types."""

from __future__ import annotations

import random

import numpy as np

from algorithms.common.masks import expand
from algorithms.common.protocol import Send


def names(count):
    return tuple(f"station-{place:02d}" for place in range(count))


def randomness(seed):
    return random.Random(seed).randbytes


def play(machine, vectors, *, order=None, seed=0, expand=expand, tap=None):
    """Deliver every message, in the order that `order` (a random.Random) picks.

    Returns the machines; `tap(sender, send)` sees every message as it is sent.
    """
    stations = names(len(vectors))
    parts = {
        station: machine(
            station, stations, vector, randomness=randomness(f"{seed}-{station}"), expand=expand
        )
        for station, vector in zip(stations, vectors, strict=True)
    }
    waiting: list[tuple[str, Send]] = []

    def post(sender, sends):
        for send in sends:
            if tap:
                tap(sender, send)
            waiting.append((sender, send))

    for station in stations:
        post(station, parts[station].start())
    while waiting:
        place = order.randrange(len(waiting)) if order else 0
        sender, send = waiting.pop(place)
        post(send.to, parts[send.to].receive(sender, send.round, send.payload))
    return list(parts.values())


def pooled(vectors):
    """The exact sum modulo 2^64, by Python integers."""
    columns = zip(*(vector.tolist() for vector in vectors), strict=True)
    return np.array([sum(column) % 2**64 for column in columns], dtype=np.uint64)
