"""Names: station, collaboration and run each have exactly one DNS name and one SPIFFE id."""

from __future__ import annotations

import re

from overlay.errors import UsageError

DOMAIN = "v6-overlay.internal"
CENTRAL = "central"


def station_name(organization: str) -> str:
    """The DNS label of a vantage6 organization's name: "Hospital 1" -> "hospital-1".

    Raises:
        UsageError: nothing usable is left of the name, or it is longer than a DNS label may be,
            or it is the name that belongs to the central host.
    """
    label = re.sub(r"[^a-z0-9]+", "-", organization.lower()).strip("-")
    if not label or len(label) > 63 or label == CENTRAL:
        raise UsageError(
            f"organization name {organization!r} gives no station name",
            why="it must hold 1 to 63 letters or digits and must not be 'central'",
            next_step="rename the organization on the vantage6 server",
        )
    return label


def collaboration_domain(collaboration_id: int) -> str:
    """The DNS domain of a collaboration: "c1.v6-overlay.internal"."""
    return f"c{collaboration_id}.{DOMAIN}"


def station_domain(station: str, collaboration_id: int) -> str:
    """The DNS domain that a station may issue names under."""
    return f"{station}.{collaboration_domain(collaboration_id)}"


def run_hostname(station: str, collaboration_id: int, task_id: int, run_id: int) -> str:
    """The DNS name of one run's container: certificate name and network alias."""
    return f"run-{run_id}.task-{task_id}.{station_domain(station, collaboration_id)}"


def spiffe_id(
    station: str, collaboration_id: int, task_id: int | None = None, run_id: int | None = None
) -> str:
    """The SPIFFE id of a run, or of the station itself when no task and run are given."""
    base = f"spiffe://{station_domain(station, collaboration_id)}"
    return base if task_id is None else f"{base}/task/{task_id}/run/{run_id}"
