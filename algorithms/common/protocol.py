"""A sum protocol is a state machine without I/O: messages in, messages out, one result.

A machine never waits, reads no clock and opens no socket, so that the same code runs over the
overlay, in a simulator with any message order, and over symbolic vectors in the rank test. It
uses a vector only through `+`, `-`, slices of the first axis and its shape; the mask generator
and the randomness are arguments.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from algorithms.common.encoding import Vector
from algorithms.common.masks import SEED_BYTES, Expand, Randomness, expand
from overlay.errors import ProtocolError, TooFewStations

MIN_STATIONS = 3

Payload = bytes | Vector


@dataclass(frozen=True)
class Send:
    """A message that the caller is to deliver. Round 1 belongs to the engine."""

    to: str
    round: int
    payload: Payload


class SumMachine(ABC):
    """One station's part in one sum over Z_2^64.

    Args:
        me: this station.
        stations: the roster, in the order that all stations hold; includes `me`.
        vector: this station's input, uint64, shape (n,). (The rank test adds a second axis.)
        randomness: bytes from a cryptographic source.
        expand: seed and length to a uniform mask.

    Raises:
        TooFewStations: fewer than 3 stations; the sum and one's own input give the other's.
    """

    NAME: ClassVar[str]
    ROUNDS: ClassVar[tuple[int, ...]]

    def __init__(
        self,
        me: str,
        stations: Sequence[str],
        vector: Vector,
        *,
        randomness: Randomness = secrets.token_bytes,
        expand: Expand = expand,
    ) -> None:
        if len(stations) < MIN_STATIONS:
            raise TooFewStations(
                f"{self.NAME} needs {MIN_STATIONS} stations and has {len(stations)}",
                why="with two, the sum and one's own input give the other's",
                next_step="add organizations to the task",
            )
        self.me = me
        self.stations = tuple(stations)
        self.index = self.stations.index(me)
        self.peers = tuple(station for station in self.stations if station != me)
        self.result: Vector | None = None
        self._vector = vector
        self._randomness = randomness
        self._expand = expand
        self._seen: set[tuple[str, int]] = set()

    @staticmethod
    @abstractmethod
    def collusion_threshold(stations: int) -> int:
        """The largest coalition that learns no more than the sum, of `stations` stations."""

    @abstractmethod
    def start(self) -> list[Send]:
        """The messages that this station sends before it has received any."""

    @abstractmethod
    def _accept(self, sender: str, round_: int, payload: Payload) -> list[Send]:
        """What a well-addressed, first message causes."""

    @abstractmethod
    def _expected(self, round_: int) -> int:
        """How many messages of a round this station gets."""

    @property
    def awaited(self) -> int | None:
        """The first round that has messages still to come; None once all have come."""
        for round_ in self.ROUNDS:
            if sum(seen == round_ for _, seen in self._seen) < self._expected(round_):
                return round_
        return None

    def receive(self, sender: str, round_: int, payload: Payload) -> list[Send]:
        """Take one message and return what is to be sent now.

        Raises:
            ProtocolError: naming the sender, where the protocol does not allow this message.
        """
        if sender not in self.peers:
            raise self._refuse(sender, "a message from outside the roster")
        if round_ not in self.ROUNDS:
            raise self._refuse(sender, f"a message for unknown round {round_}")
        if (sender, round_) in self._seen:
            raise self._refuse(sender, f"a second message for round {round_}")
        self._seen.add((sender, round_))
        return self._accept(sender, round_, payload)

    def _ring_elements(self, sender: str, payload: Payload, length: int) -> Vector:
        shape = (length, *self._vector.shape[1:])
        if (
            not isinstance(payload, np.ndarray)
            or payload.dtype != np.uint64
            or payload.shape != shape
        ):
            raise self._refuse(sender, f"something else than {length} ring elements")
        return payload

    def _seed(self, sender: str, payload: Payload) -> bytes:
        if not isinstance(payload, bytes) or len(payload) != SEED_BYTES:
            raise self._refuse(sender, f"something else than a seed of {SEED_BYTES} bytes")
        return payload

    def _refuse(self, sender: str, what: str) -> ProtocolError:
        return ProtocolError(
            f"{sender} sent {what}",
            why=f"{self.NAME} does not allow it",
            next_step="check that all stations run the same algorithm image",
            station=sender,
        )
