"""A run: all stations agree on the columns, sum, and compare one digest before anyone releases.

Whatever raises in here is to leave the channel's `with` block: a group then tells the others why
this station ends, and they end at once with its name and reason instead of waiting for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from algorithms.common.encoding import Vector
from algorithms.common.protocol import MIN_STATIONS, SumMachine
from overlay.errors import DataError, ProtocolError, TooFewStations
from overlay.wire.statement import common_facts, signed_by

METADATA = 1
DIGEST = 9

Progress = Callable[[str], None]


class Message(Protocol):
    """A message as it arrives: `sender` station, `round`, `payload`."""

    @property
    def sender(self) -> str:
        """The station that sent it."""

    @property
    def round(self) -> int:
        """The round it belongs to."""

    @property
    def payload(self) -> Any:
        """bytes, array or dict."""


class Channel(Protocol):
    """What a run needs of `overlay.peer.Group`; the simulation has its own."""

    @property
    def me(self) -> str:
        """This station."""

    @property
    def stations(self) -> tuple[str, ...]:
        """All stations of the run, sorted."""

    @property
    def collaboration_id(self) -> int:
        """The vantage6 id of the collaboration."""

    @property
    def task_id(self) -> int:
        """The vantage6 id of the task."""

    def send(self, station: str, payload: Any, *, round: int = 0) -> None:
        """Send one message."""

    def receive(self, *, round: int = 0) -> Message:
        """The next message of a round, from anyone."""

    def exchange(self, payloads: dict[str, Any], *, round: int = 0) -> dict[str, Any]:
        """One message to every peer, one from every peer."""

    def agree(self, digest: str, *, round: int = 0) -> None:
        """Compare a digest with every peer. Raises TranscriptMismatch."""

    def attest(self, statement: dict[str, Any]) -> dict[str, Any]:
        """Sign a statement with the run's key."""


@contextmanager
def own_data(channel: Channel) -> Iterator[None]:
    """A refusal of this station's data names this station."""
    try:
        yield
    except DataError as error:
        error.station = error.station or channel.me
        raise


def require_stations(channel: Channel) -> None:
    """Raises TooFewStations below the minimum, before anything of the data is looked at."""
    if len(channel.stations) < MIN_STATIONS:
        raise TooFewStations(
            f"the task has {len(channel.stations)} stations",
            why=f"a sum needs {MIN_STATIONS}: with two, it and one's own input give the other's",
            next_step="add organizations to the task",
        )


def agree_metadata(
    channel: Channel, arguments: dict[str, Any], own: dict[str, Any]
) -> dict[str, Any]:
    """Exchange what each station may say in the open, once all hold the same task arguments.

    Returns:
        station -> its metadata, in roster order.

    Raises:
        ProtocolError: naming the first station that was given other arguments.
    """
    said = {"arguments": arguments, "own": own}
    others = [station for station in channel.stations if station != channel.me]
    answers = channel.exchange(dict.fromkeys(others, said), round=METADATA) | {channel.me: said}
    for station in channel.stations:
        answer = answers[station]
        if not isinstance(answer, dict) or answer.get("arguments") != arguments:
            raise ProtocolError(
                f"{station} was given other task arguments than {channel.me}",
                why="the server hands each station the arguments",
                next_step="submit the task again; if it repeats, tell the operator",
                station=station,
            )
    return {station: answers[station].get("own") for station in channel.stations}


def run_machine(
    machine: type[SumMachine], channel: Channel, vector: Vector, progress: Progress
) -> Vector:
    """Sum the stations' vectors, uint64 of shape (n,), and return the sum, the same shape."""
    started = time.monotonic()
    part = machine(channel.me, channel.stations, vector)
    progress(f"{machine.NAME}: {len(vector):,} elements, {len(channel.stations)} stations")
    sends, last_round = part.start(), 0
    while True:
        for send in sends:
            if send.round > last_round:
                last_round = send.round
                progress(f"{machine.NAME}: round {last_round - 1} of {len(machine.ROUNDS)} sent")
            channel.send(send.to, send.payload, round=send.round)
        if part.result is not None:
            progress(f"{machine.NAME}: summed in {time.monotonic() - started:.3f} s")
            return np.asarray(part.result, dtype=np.uint64)
        awaited = part.awaited
        if awaited is None:
            raise RuntimeError("a protocol has all its messages and no result")
        message = channel.receive(round=awaited)
        sends = part.receive(message.sender, message.round, message.payload)


def release(channel: Channel, report: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """This station's result, once all stations hold the same transcript.

    The first station of the roster returns the report, every other one its signature.

    Raises:
        TranscriptMismatch: another station holds another result.
    """
    facts = common_facts(
        report,
        collaboration=channel.collaboration_id,
        task=channel.task_id,
        stations=channel.stations,
    )
    transcript = facts["transcript_sha256"]
    channel.agree(transcript, round=DIGEST)
    progress(f"all {len(channel.stations)} stations hold transcript {transcript[:16]}")
    signature = {
        "transcript_sha256": transcript,
        "attestation": channel.attest(signed_by(facts, channel.me)),
    }
    if channel.me == channel.stations[0]:
        return {**report, **signature}
    return {"protocol": report["protocol"], "station": channel.me, **signature}
