"""What a station signs: protocol, task, roster, parameters and result, and when it signed.

An algorithm builds it, `overlay.client` verifies it. Every station computes the same report from
the same ring values, so that the digests are equal and a reader who has one station's report and
every station's signature needs to trust no server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from overlay.wire.payload import canonical_json
from overlay.wire.transcript import Transcript

VERSION = 1


def digest(value: dict[str, Any]) -> str:
    """SHA-256 of the one JSON form of `value`, 64 hex digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def common_facts(
    report: dict[str, Any], *, collaboration: int, task: int, stations: Sequence[str]
) -> dict[str, Any]:
    """The part of a statement that is the same at every station, transcript digest included.

    Args:
        report: the result as the reporting station returns it, before the signature is added.
            The full "vector", where there is one, is covered by its own "vector_sha256".
        collaboration: vantage6 id.
        task: vantage6 id.
        stations: the roster in order.
    """
    facts: dict[str, Any] = {
        "version": VERSION,
        "protocol": report["protocol"],
        "collaboration": collaboration,
        "task": task,
        "stations": list(stations),
        "parameters_sha256": digest(report["parameters"]),
        "result_sha256": result_digest(report),
    }
    return {**facts, "transcript_sha256": transcript_digest(facts)}


def result_digest(report: dict[str, Any]) -> str:
    """What a statement says of a report: all of it but the vector and the signature itself."""
    outside = ("vector", "transcript_sha256", "attestation")
    return digest({key: report[key] for key in report if key not in outside})


def transcript_digest(facts: dict[str, Any]) -> str:
    """The digest that stations compare, over the facts that stand before it."""
    transcript = Transcript()
    transcript.add("facts", facts)
    return transcript.hexdigest()


def signed_by(facts: dict[str, Any], station: str) -> dict[str, Any]:
    """One station's statement: the common facts, its name and the time of its clock (UTC)."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {**facts, "station": station, "signed_at": now}
