"""For researchers: a result counts only if every station signed it and the signatures are good.

The vantage6 server stores what the stations return; here nobody has to trust it. Each station
signs the same digests with the key of its run, whose certificate leads through the station to the
collaboration's CA; the researcher pins that CA's fingerprint, which the operator hands out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from overlay import failures
from overlay.errors import OverlayError, ResultError
from overlay.identity import SKEW, fingerprint, load_cert, verify_chain
from overlay.wire import canonical_json
from overlay.wire.statement import digest, result_digest, transcript_digest

# How long other runs may take to say what they know once one has failed.
GRACE = 20.0
_PAGE = 100
_FINISHED = "completed"
_RUNNING = ("pending", "initializing", "active")

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Result:
    """A verified result.

    Attributes:
        task_id: the vantage6 task.
        report: everything the reporting station returned, its signature left out.
        transcript_sha256: the digest that all stations signed.
        ca_fingerprint: of the collaboration CA under which they signed.
        pinned: whether the caller had given that fingerprint; if not, compare it once by hand.
    """

    task_id: int
    report: dict[str, Any]
    transcript_sha256: str
    ca_fingerprint: str
    pinned: bool

    @property
    def sums(self) -> dict[str, int | float]:
        """Column name -> sum, of a task over columns."""
        return dict(self.report["sums"])

    @property
    def rows(self) -> int:
        """The number of rows of all stations together, of a task over columns."""
        return int(self.report["rows"])

    @property
    def stations(self) -> list[str]:
        """The stations that took part and signed."""
        return list(self.report["stations"])


def collect(
    client: Any,
    task_id: int,
    ca_fingerprint: str | None = None,
    timeout: float = 600.0,
    progress: Progress | None = None,
    interval: float = 0.5,
) -> Result:
    """Wait for a sum task and return its verified result.

    Args:
        client: an authenticated `vantage6.client.UserClient`.
        task_id: what `client.task.create(...)["id"]` gave.
        ca_fingerprint: `sha256:<hex>` of the collaboration CA. Without it the result is verified
            against the CA that the stations present, and `Result.pinned` is False.
        timeout: seconds to wait for all runs to finish.
        progress: told in plain words how far the runs are.
        interval: seconds between two looks at the server.

    Raises:
        ResultError: a run failed (`__cause__` is the named error from its log, `station` the
            station it is about), the time is over, or something does not verify.
    """
    runs = _wait(client, task_id, timeout, progress or (lambda text: None), interval)
    try:
        results = {int(run["id"]): _parse(client.result.get(int(run["id"]))) for run in runs}
    except (KeyError, TypeError) as error:  # what the client makes of a refusal
        raise ResultError(
            f"task {task_id}: the server does not hold a result of every run"
        ) from error
    return verify(results, task_id, ca_fingerprint)


def verify(
    results: dict[int, dict[str, Any]],
    task_id: int,
    ca_fingerprint: str | None = None,
    now: datetime | None = None,
) -> Result:
    """Verify what the stations of a task returned.

    Args:
        results: run id -> what that run returned.
        task_id: the task they are for.
        ca_fingerprint: as for `collect`.
        now: the reader's clock, aware; statements from its future are refused.

    Raises:
        ResultError: naming the station, where something does not verify.
    """
    now = now or datetime.now(timezone.utc)
    facts: dict[str, Any] = {}
    signed: dict[str, int] = {}
    ca = ca_fingerprint
    for run_id, result in results.items():
        statement, authority = _verify_statement(result, task_id, run_id, now)
        station = statement.pop("station")
        statement.pop("signed_at")
        if not hmac.compare_digest(ca or authority, authority):
            raise _bad(station, "its certificate is from another collaboration CA", authority)
        ca = authority
        if facts and statement != facts:
            raise _bad(station, "it signed another result than the other stations")
        if result.get("transcript_sha256") != statement.get("transcript_sha256"):
            raise _bad(station, "it reports another transcript than it signed")
        if station in signed:
            raise _bad(station, "two runs carry its signature")
        facts = statement
        signed[station] = run_id
    if ca is None or sorted(signed) != facts.get("stations") or len(signed) < 2:
        missing = sorted(set(facts.get("stations", ())) - set(signed))
        raise ResultError(
            f"task {task_id}: the signatures are not those of the roster",
            why=f"missing: {', '.join(missing)}" if missing else "",
            station=", ".join(missing),
        )
    transcript = facts.pop("transcript_sha256")
    if transcript_digest(facts) != transcript:
        raise ResultError(f"task {task_id}: the signed transcript is not that of the facts")
    reporter = facts["stations"][0]
    report = results[signed[reporter]]
    _verify_report(report, facts, reporter)
    values = {k: v for k, v in report.items() if k not in ("attestation", "transcript_sha256")}
    return Result(task_id, values, transcript, ca, ca_fingerprint is not None)


def _verify_statement(
    result: dict[str, Any], task_id: int, run_id: int, now: datetime
) -> tuple[dict[str, Any], str]:
    """The statement of one run, its signature and names verified, and the CA's fingerprint."""
    where = f"run {run_id}"
    try:
        attestation = result["attestation"]
        statement = dict(attestation["statement"])
        station = str(statement["station"])
        where = f"run {run_id} ({station})"
        chain, ca = attestation["chain"].encode(), attestation["ca"].encode()
        signature = base64.b64decode(attestation["signature"], validate=True)
        signed_at = datetime.fromisoformat(statement["signed_at"])
        if signed_at > now + SKEW:
            raise _bad(station, "its signature is from the future")
        # A run's certificate lives for a day; what counts is that it was valid when it signed.
        identity = verify_chain(chain, ca, signed_at)
        identity.public_key.verify(signature, canonical_json(statement), ec.ECDSA(hashes.SHA256()))
        names = (identity.station, identity.task_id, identity.run_id, identity.collaboration_id)
        said = (station, task_id, run_id, statement["collaboration"])
        if names != said or statement["task"] != task_id:
            raise _bad(station, "its certificate is for another run")
        return statement, fingerprint(load_cert(ca))
    except ResultError:
        raise
    except InvalidSignature:
        raise ResultError(f"{where}: its signature does not verify") from None
    except OverlayError as error:
        raise ResultError(f"{where}: its certificate does not verify", why=str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError, binascii.Error) as error:
        why = f"{type(error).__name__} in it"
        raise ResultError(f"{where} returned no signed statement", why=why) from None


def _verify_report(report: dict[str, Any], facts: dict[str, Any], station: str) -> None:
    """The reporter's values are the ones that all stations signed."""
    try:
        same = (
            result_digest(report) == facts["result_sha256"]
            and digest(report["parameters"]) == facts["parameters_sha256"]
            and report["stations"] == facts["stations"]
            and report["protocol"] == facts["protocol"]
        )
        if same and "vector" in report:
            vector = np.array(report["vector"], dtype=np.dtype(report["dtype"]))
            # Exactly the list that was signed: numpy would also take 3.9 or "3" for the integer 3.
            exact = vector.ndim == 1 and json.dumps(vector.tolist()) == json.dumps(report["vector"])
            same = exact and hashlib.sha256(vector.data).hexdigest() == report["vector_sha256"]
    except (KeyError, TypeError, ValueError, OverflowError, OverlayError):
        same = False
    if not same:
        raise _bad(station, "its values are not the ones that the stations signed")


def _wait(
    client: Any, task_id: int, timeout: float, progress: Progress, interval: float
) -> list[dict[str, Any]]:
    """All runs of the task, completed."""
    deadline = time.monotonic() + timeout
    told = ""
    while True:
        runs = _runs(client, task_id)
        states = [str(run["status"]) for run in runs]
        text = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
        if text != told:
            progress(f"task {task_id}: {text}")
            told = text
        running = [state for state in states if state in _RUNNING]
        failed = [state for state in states if state not in (*_RUNNING, _FINISHED)]
        if not running and not failed:
            return runs
        if failed:
            deadline = min(deadline, time.monotonic() + GRACE) if running else 0.0
        if time.monotonic() >= deadline:
            raise failures.of_task(client, task_id, runs, bool(failed))
        time.sleep(interval)


def _runs(client: Any, task_id: int) -> list[dict[str, Any]]:
    """All runs of the task; the server lists only ten at a time unless it is asked otherwise."""
    runs: list[dict[str, Any]] = []
    while len(runs) % _PAGE == 0:
        params = {"task_id": task_id, "page": len(runs) // _PAGE + 1, "per_page": _PAGE}
        answer = client.request("run", params=params)
        more = answer.get("data") or []
        if not runs and not more:
            raise ResultError(f"task {task_id} has no runs", why=str(answer.get("msg", "")))
        if not more:
            break
        runs += more
    return runs


def _parse(raw: object) -> dict[str, Any]:
    try:
        value = json.loads(raw) if isinstance(raw, str | bytes) else raw
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _bad(station: str, what: str, why: str = "") -> ResultError:
    return ResultError(f"{station}: {what}", why=why, station=station)
