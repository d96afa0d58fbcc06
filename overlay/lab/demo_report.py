"""A report is what was measured; its checks follow from the measurements and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overlay import __version__
from overlay.capture import Kind, Traffic
from overlay.errors import (
    BlindMeasurement,
    EvidenceError,
    PlaintextSeen,
    SharesAtServer,
    WrongSum,
)

SERVER = "central"
MOST_SERVER_BYTES = 1_000_000  # per station, in the run that carries shares beside the server


@dataclass(frozen=True)
class Run:
    """One task and its capture.

    Attributes:
        title: what people call the task.
        protocol: the protocol's name in the result; empty for the empty task.
        rows: rows that were summed, all stations together.
        elements: length of the summed vector, 0 for sums of columns.
        seconds: from submission to the verified result.
        result: column or element -> reported sum.
        expected: the same, from the pooled data.
        max_abs_error: the largest difference from the exact pooled sum.
        allowed_error: what the protocol states for it.
        transcript_sha256: the digest on which all stations agreed.
        traffic: what the outer network carried meanwhile.
    """

    title: str
    seconds: float
    traffic: Traffic
    protocol: str = ""
    rows: int = 0
    elements: int = 0
    result: Mapping[str, float] | None = None
    expected: Mapping[str, float] | None = None
    max_abs_error: float = 0.0
    allowed_error: float = 0.0
    transcript_sha256: str = ""

    def server_bytes(self, stations: Sequence[str]) -> dict[str, int]:
        """Station -> bytes between it and the server both ways, encrypted ones included."""
        return {name: self.traffic.bytes_between(name, SERVER) for name in stations}

    def station_bytes(self, stations: Sequence[str]) -> int:
        """Bytes between any two stations."""
        pairs = self.traffic.select(stations, stations)
        return sum(pair.bytes for pair in pairs)


@dataclass(frozen=True)
class Check:
    """One promise, and what was measured about it; `error` is its name where it does not hold."""

    claim: str
    measured: str
    error: type[EvidenceError] | None

    @property
    def passed(self) -> bool:
        """Whether the promise held."""
        return self.error is None


@dataclass(frozen=True)
class Report:
    """A whole demonstration.

    Attributes:
        stations: names of the stations, in order.
        sums: the runs whose sums are compared with the truth, the vector run last.
        empty: a task that does nothing, run beside them.
        control: the vector run again, its result sent through the server on purpose.
    """

    stations: tuple[str, ...]
    sums: tuple[Run, ...]
    empty: Run
    control: Run

    @property
    def vector(self) -> Run:
        """The run that carries the most shares."""
        return self.sums[-1]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs in the order in which they are told."""
        return (*self.sums, self.empty, self.control)

    @property
    def plaintext_overlay_packets(self) -> int:
        """Overlay packets seen in clear, in all captures together."""
        return sum(run.traffic.packets_of(Kind.PLAIN_OVERLAY) for run in self.runs)

    def through_server(self, run: Run) -> dict[str, int]:
        """Station -> bytes that crossed between it and the server beyond the empty task's."""
        idle = self.empty.server_bytes(self.stations)
        return {name: sent - idle[name] for name, sent in run.server_bytes(self.stations).items()}

    def checks(self) -> tuple[Check, ...]:
        """Every promise of the demonstration, kept or not."""
        payload = 8 * self.vector.elements
        worst = max(self.vector.server_bytes(self.stations).values())
        control = sum(self.through_server(self.control).values())
        between = self.vector.station_bytes(self.stations)
        return (
            *(self._sum_check(run) for run in (*self.sums, self.control)),
            _check(
                "no overlay packet leaves a host in clear",
                f"{self.plaintext_overlay_packets} seen in {len(self.runs)} captures",
                self.plaintext_overlay_packets == 0,
                PlaintextSeen,
            ),
            _check(
                "the shares travel from station to station",
                f"{between:,} bytes between stations for {payload:,} bytes of vector",
                between >= payload,
                BlindMeasurement,
            ),
            _check(
                "less than 1 MB crosses between any station and the server",
                f"{worst:,} bytes at most",
                worst < MOST_SERVER_BYTES,
                SharesAtServer,
            ),
            _check(
                "a vector that does go through the server is seen there",
                f"{control:,} bytes more than the empty task, for {payload:,} bytes of vector",
                control >= payload,
                BlindMeasurement,
            ),
        )

    def raise_for_checks(self) -> None:
        """Raise the first promise that does not hold, by its name.

        Raises:
            EvidenceError: a subclass that says which promise.
        """
        for check in self.checks():
            if check.error is not None:
                raise check.error(
                    f"not shown: {check.claim}",
                    why=check.measured,
                    next_step="read report.json, or run the demo again with --keep and look",
                )

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        stations = self.stations
        through = self.through_server(self.vector)
        control = self.through_server(self.control)
        return {
            "version": __version__,
            "stations": list(stations),
            "runs": [_run_dict(run) for run in self.sums],
            "control": _run_dict(self.control),
            "traffic": {
                "pairs": _pair_dicts(self.vector.traffic),
                "plaintext_overlay_packets": self.plaintext_overlay_packets,
                "wireguard_packets": self.vector.traffic.packets_of(Kind.WIREGUARD),
                "station_to_station_bytes": self.vector.station_bytes(stations),
                "server_bytes_per_station": {
                    "run": self.vector.server_bytes(stations),
                    "empty_task": self.empty.server_bytes(stations),
                    "control": self.control.server_bytes(stations),
                },
                "share_bytes_through_server": sum(through.values()),
                "share_bytes_through_server_per_station": through,
                "control_bytes_through_server": sum(control.values()),
                "control_bytes_through_server_per_station": control,
                "captures": [
                    {"task": run.title, "pairs": _pair_dicts(run.traffic)} for run in self.runs
                ],
            },
            "checks": [
                {
                    "claim": check.claim,
                    "measured": check.measured,
                    "passed": check.passed,
                    "error": check.error.__name__ if check.error else None,
                }
                for check in self.checks()
            ],
        }

    def _sum_check(self, run: Run) -> Check:
        return _check(
            f"{run.title}: equals the pooled truth",
            f"off by {run.max_abs_error:.3g}, {run.allowed_error:.3g} allowed",
            run.max_abs_error <= run.allowed_error and bool(run.transcript_sha256),
            WrongSum,
        )


def _check(claim: str, measured: str, holds: bool, error: type[EvidenceError]) -> Check:
    return Check(claim, measured, None if holds else error)


def _run_dict(run: Run) -> dict[str, Any]:
    return {
        "title": run.title,
        "protocol": run.protocol,
        "rows": run.rows,
        "elements": run.elements,
        "seconds": round(run.seconds, 3),
        "result": dict(run.result or {}),
        "expected": dict(run.expected or {}),
        "max_abs_error": run.max_abs_error if math.isfinite(run.max_abs_error) else None,
        "allowed_error": run.allowed_error,
        "transcript_sha256": run.transcript_sha256,
    }


def _pair_dicts(traffic: Traffic) -> list[dict[str, Any]]:
    return [
        {
            "src": src,
            "dst": dst,
            "bytes": octets,
            "packets": packets,
            "kinds": {
                pair.kind.value: {"bytes": pair.bytes, "packets": pair.packets}
                for pair in traffic.select([src], [dst])
            },
        }
        for (src, dst), (octets, packets) in traffic.by_hosts().items()
    ]
