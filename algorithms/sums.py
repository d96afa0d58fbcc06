"""The vantage6 functions of the image: each task names one of these as its `method`.

Arguments are checked first. A station that cannot take part says so to the others before it ends.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from algorithms.common import tasks
from algorithms.common.arguments import (
    Bound,
    Rules,
    column_names,
    count,
    entry_point,
    positive,
)
from algorithms.common.encoding import float_scale
from algorithms.common.engine import Channel, Progress
from algorithms.common.protocol import SumMachine
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum
from overlay import __version__
from overlay.errors import EmptyStation, HostError, OverlayError, UsageError

if TYPE_CHECKING:
    import pandas as pd

PROTOCOLS = (SecureSum, DkSecureSum)
RETURNS = ("digest", "vector")


@entry_point
def secure_sum(
    columns: list[str] | None = None,
    decimals: int | None = None,
    fraction_bits: int | None = None,
    bound: Bound = None,
    missing: str = "refuse",
    rendezvous: float = 300,
) -> dict[str, Any]:
    """Sum columns around the ring; two neighbours together see a station's input.

    Arguments, result and errors: `algorithms/secure_sum/README.md`.
    """
    return _columns(SecureSum, columns, decimals, fraction_bits, bound, missing, rendezvous)


@entry_point
def dk_secure_sum(
    columns: list[str] | None = None,
    decimals: int | None = None,
    fraction_bits: int | None = None,
    bound: Bound = None,
    missing: str = "refuse",
    rendezvous: float = 300,
) -> dict[str, Any]:
    """Sum columns; any coalition that leaves two stations out learns only the sum.

    Arguments, result and errors: `algorithms/dk_secure_sum/README.md`.
    """
    return _columns(DkSecureSum, columns, decimals, fraction_bits, bound, missing, rendezvous)


@entry_point
def secure_sum_vector(
    column: str,
    length: int | None = None,
    elements: int = 5,
    return_: str = "digest",
    fraction_bits: int | None = None,
    bound: float | None = None,
    missing: str = "refuse",
    rendezvous: float = 300,
) -> dict[str, Any]:
    """Sum one column row by row around the ring: `algorithms/secure_sum/README.md`."""
    return _vector(
        SecureSum, column, length, elements, return_, fraction_bits, bound, missing, rendezvous
    )


@entry_point
def dk_secure_sum_vector(
    column: str,
    length: int | None = None,
    elements: int = 5,
    return_: str = "digest",
    fraction_bits: int | None = None,
    bound: float | None = None,
    missing: str = "refuse",
    rendezvous: float = 300,
) -> dict[str, Any]:
    """Sum one column row by row, safe to n-2: `algorithms/dk_secure_sum/README.md`."""
    return _vector(
        DkSecureSum, column, length, elements, return_, fraction_bits, bound, missing, rendezvous
    )


@entry_point
def about() -> dict[str, Any]:
    """Versions, at once: no data is read and no peer is spoken to (the empty task)."""
    return {
        "v6_overlay": __version__,
        "python": platform.python_version(),
        "protocols": [machine.NAME for machine in PROTOCOLS],
    }


def _columns(
    machine: type[SumMachine],
    columns: list[str] | None,
    decimals: int | None,
    fraction_bits: int | None,
    bound: Bound,
    missing: str,
    rendezvous: float,
) -> dict[str, Any]:
    rules = Rules(float_scale(fraction_bits, decimals), bound, missing)
    names = column_names(columns)
    return _in_group(
        rendezvous,
        lambda channel, frame, progress: tasks.sum_columns(
            channel, machine, frame, names, rules, progress
        ),
    )


def _vector(
    machine: type[SumMachine],
    column: str,
    length: int | None,
    elements: int,
    return_: str,
    fraction_bits: int | None,
    bound: float | None,
    missing: str,
    rendezvous: float,
) -> dict[str, Any]:
    if not isinstance(column, str):
        raise UsageError("column must be one column name")
    if return_ not in RETURNS:
        raise UsageError(f"return_ must be one of {', '.join(RETURNS)}")
    size = None if length is None else count("length", length, least=1)
    leading = count("elements", elements, least=0)
    rules = Rules(float_scale(fraction_bits), bound, missing)
    return _in_group(
        rendezvous,
        lambda channel, frame, progress: tasks.sum_vector(
            channel,
            machine,
            frame,
            column,
            size,
            rules,
            progress,
            elements=leading,
            whole=return_ == "vector",
        ),
    )


def _in_group(
    rendezvous: float, work: Callable[[Channel, pd.DataFrame, Progress], dict[str, Any]]
) -> dict[str, Any]:
    """Read this station's table, join the run's group and do the work.

    The table comes first: the time that it takes then counts as rendezvous at the other stations.
    A table that cannot be read is reported inside the group, so that the others end at once.
    """
    from vantage6.algorithm.tools.util import info

    from overlay.peer import Group

    patience = positive("rendezvous", rendezvous)
    refusal = None
    try:
        table = _table()
    except OverlayError as error:
        refusal = error
    with Group.join(rendezvous=patience, progress=info) as group:
        if refusal is not None:
            refusal.station = group.me
            raise refusal
        return work(group, table, info)


def _table() -> pd.DataFrame:
    """The station's table, as vantage6 hands it to an algorithm."""
    from vantage6.algorithm.tools.decorators import data

    try:
        frame: pd.DataFrame = data(1)(lambda table: table)()
        return frame
    except (SystemExit, KeyError):
        raise UsageError(
            "the task names no database that this station can read",
            next_step="pass databases=[{'label': ...}] with the task",
        ) from None
    except OverlayError:
        raise
    except Exception as error:
        if type(error).__name__ == "EmptyDataError":
            raise EmptyStation("the station's table is empty") from None
        raise HostError("the station's table cannot be read", why=type(error).__name__) from None
