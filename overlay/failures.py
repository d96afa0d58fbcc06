"""Of several failed runs the one that knows the cause speaks; its named error is kept as such."""

from __future__ import annotations

import re
from typing import Any

from overlay.errors import OverlayError, PeerAborted, PeerError, ResultError, UsageError
from overlay.identity import station_name

_LINE = re.compile(r"Error encountered while calling \w+: (\w+): (.*)")
_PARTS = re.compile(r"(?P<what>.*?)(?:; because (?P<why>.*?))?(?:; next: (?P<next>.*))?")


def of_task(client: Any, task_id: int, runs: list[dict[str, Any]], failed: bool) -> ResultError:
    """The error to raise for a task, from its runs as the vantage6 server lists them.

    Args:
        client: an authenticated `vantage6.client.UserClient`, asked for organization names.
        task_id: the task.
        runs: with "id", "status", "log" and "organization".
        failed: whether a run has failed; otherwise the time is over.

    Returns:
        A ResultError with `station`, and with the named error as `__cause__` where a log has one.
    """
    stations = {int(run["id"]): _station(client, run) for run in runs}
    if not failed:
        open_runs = [run for run in runs if run["status"] != "completed"]
        return ResultError(
            f"task {task_id} is not finished in time",
            why=", ".join(f"{stations[int(r['id'])]} is {r['status']}" for r in open_runs),
            next_step="a pending run waits for its node: look whether it is online",
            station=", ".join(stations[int(run["id"])] for run in open_runs),
        )
    found = []
    for run in runs:
        error = named_error(str(run.get("log") or ""))
        if error is not None:
            at = stations[int(run["id"])]
            others = [name for name in stations.values() if name != at and name in error.what]
            error.station = others[0] if isinstance(error, PeerError) and others else at
            found.append((_rank(error), error, at))
    if not found:
        states = [(stations[int(r["id"])], r["status"]) for r in runs if r["status"] != "completed"]
        return ResultError(
            f"task {task_id} failed and no run says why",
            why=", ".join(f"{station} is {status}" for station, status in states),
            next_step="ask the stations' administrators for the node's log",
            station=", ".join(station for station, _ in states),
        )
    _, cause, at = min(found, key=lambda item: item[0])
    result = ResultError(
        f"task {task_id} failed: {cause.name} at {at}: {cause.what}",
        why=cause.why,
        next_step=cause.next_step,
        station=cause.station,
    )
    result.__cause__ = cause
    return result


def named_error(log: str) -> OverlayError | None:
    """The last named error of a run's log, as an error of its own class."""
    lines = _LINE.findall(log)
    if not lines:
        return None
    name, text = lines[-1]
    kind = _kinds(OverlayError).get(name)
    parts = _PARTS.fullmatch(text)
    if kind is None or parts is None:
        return None
    return kind(parts["what"], why=parts["why"] or "", next_step=parts["next"] or "")


def _kinds(base: type[OverlayError]) -> dict[str, type[OverlayError]]:
    found = {base.__name__: base}
    for kind in base.__subclasses__():
        found |= _kinds(kind)
    return found


def _rank(error: OverlayError) -> int:
    """Own refusals first, then what a station saw of a peer, last what it was only told."""
    if isinstance(error, PeerAborted):
        return 2
    return 1 if isinstance(error, PeerError) else 0


def _station(client: Any, run: dict[str, Any]) -> str:
    number = run["organization"]["id"]
    name = client.request(f"organization/{number}").get("name")
    try:
        return station_name(str(name))
    except UsageError:
        return f"organization {number}"
