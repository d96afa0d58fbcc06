"""Stations agree on columns by their names and kinds only; nothing derived from values crosses.

By default every column that is numeric at one station is summed, and each station must have it:
a station that lacks one is named. A column is summed as integers only where all stations hold
integers; one station with floats makes it a float column for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from algorithms.common.encoding import Numbers, kind_of
from overlay.errors import ColumnError, EmptyStation, ProtocolError

if TYPE_CHECKING:
    import pandas as pd

Kinds = dict[str, str]


def numeric_columns(frame: pd.DataFrame, requested: Sequence[str] | None, station: str) -> Kinds:
    """Name and kind ("int" or "float") of this station's columns that take part.

    Raises:
        EmptyStation: the table has no rows.
        ColumnError: a requested column is absent, not numeric or there twice; no column is
            numeric; a numeric column shares its name with another.
    """
    if frame.shape[0] == 0:
        raise EmptyStation(
            f"{station} has no rows",
            next_step="leave the organization out of the task",
            station=station,
        )
    kinds = {str(name): _kind(dtype) for name, dtype in frame.dtypes.items()}
    if requested is None:
        numeric = {name: kind for name, kind in kinds.items() if kind}
        if not numeric:
            raise ColumnError(f"{station} has no numeric column", station=station)
        _refuse_doubles(frame, numeric, station)
        return numeric
    _refuse_doubles(frame, requested, station)
    chosen = {}
    for name in requested:
        if name not in kinds:
            raise _lacks(station, name)
        kind = kinds[name]
        if not kind:
            raise ColumnError(
                f"column {name!r} is not numeric at {station}",
                next_step="leave it out of columns",
                station=station,
            )
        chosen[name] = kind
    return chosen


def cells(frame: pd.DataFrame, column: str) -> tuple[Numbers, NDArray[np.bool_] | None]:
    """A numeric column's values, shape (rows,), and which of them pandas marks as missing."""
    names = [str(name) for name in frame.columns]
    series = frame.iloc[:, names.index(column)]
    if isinstance(series.dtype, np.dtype):
        return series.to_numpy(), None
    gaps = series.isna().to_numpy(dtype=bool)  # a nullable type of pandas
    plain = _plain(series.dtype)
    zero = None if plain is None else plain.type(0)
    return series.fillna(zero).to_numpy(dtype=plain), gaps


def merge_kinds(kinds: Mapping[str, Kinds]) -> Kinds:
    """The columns of the sum, sorted by name, from every station's own.

    Sorted, because a message's dict arrives with its keys in canonical order, not the sender's.

    Args:
        kinds: station -> its columns and kinds, in roster order.

    Raises:
        ColumnError: naming the first station that lacks a column that another one has.
    """
    stations = list(kinds)
    for station in stations:
        for other in stations:
            for name in kinds[other]:
                if name not in kinds[station]:
                    raise _lacks(station, name)
    return {
        name: "float" if any(kinds[station][name] == "float" for station in stations) else "int"
        for name in sorted(kinds[stations[0]])
    }


def kinds_from(station: str, payload: object) -> Kinds:
    """A peer's columns and kinds. Raises ProtocolError where it is not that."""
    if isinstance(payload, dict) and all(
        isinstance(name, str) and kind in ("int", "float") for name, kind in payload.items()
    ):
        return payload
    raise ProtocolError(f"{station} sent no columns and kinds", station=station)


def _kind(dtype: object) -> str | None:
    return kind_of(np.empty(0, dtype=plain)) if (plain := _plain(dtype)) is not None else None


def _plain(dtype: object) -> np.dtype[Any] | None:
    """The numpy type under a column's type; None where there is none (text, categories)."""
    plain = dtype if isinstance(dtype, np.dtype) else getattr(dtype, "numpy_dtype", None)
    return plain if isinstance(plain, np.dtype) else None


def _refuse_doubles(frame: pd.DataFrame, wanted: Iterable[str], station: str) -> None:
    """Which of two columns of one name is meant, nobody can say."""
    counts = Counter(str(name) for name in frame.columns)
    for name in wanted:
        if counts[name] > 1:
            raise ColumnError(
                f"{station} has the column {name!r} twice",
                next_step="rename one of them, or leave the name out of columns",
                station=station,
            )


def _lacks(station: str, name: str) -> ColumnError:
    return ColumnError(
        f"{station} has no numeric column {name!r}",
        why="every station of the task must have every column that is summed",
        next_step="name the common columns with columns=[...]",
        station=station,
    )
