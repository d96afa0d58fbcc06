"""The pooled truth is computed without rounding, from the stations' files, not from results."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Number = int | float


def read_table(text: str) -> pd.DataFrame:
    """A station's CSV, read the way its node's algorithm tools read it."""
    return pd.read_csv(io.StringIO(text))


def pooled_sums(tables: Sequence[pd.DataFrame]) -> dict[str, Fraction]:
    """Exact sums of the columns that are numeric at every station; missing cells count nothing."""
    shared = [
        column
        for column in tables[0].columns
        if all(column in t and pd.api.types.is_numeric_dtype(t[column]) for t in tables)
    ]
    return {
        column: sum(
            (Fraction(value) for t in tables for value in t[column].dropna().tolist()), Fraction(0)
        )
        for column in shared
    }


def is_whole(tables: Sequence[pd.DataFrame], column: str) -> bool:
    """Whether every station holds the column as whole numbers, so that its sum must be exact."""
    return all(pd.api.types.is_integer_dtype(table[column]) for table in tables)


def allowed_error(expected: Fraction, stations: int, fraction_bits: int) -> float:
    """P * 2^-(f+1) for the fixed-point step, and half a unit in the last place of a float64."""
    return float(stations * 2.0 ** -(fraction_bits + 1) + np.spacing(abs(float(expected))) / 2)


def largest_error(result: Mapping[str, Number], expected: Mapping[str, Fraction]) -> float:
    """The largest |result - expected| over all columns; infinite where a column is missing."""
    if set(result) != set(expected):
        return float("inf")
    gaps = (abs(Fraction(result[name]) - expected[name]) for name in expected)
    return float(max(gaps, default=Fraction(0)))


def pooled_vector(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Element-wise sum of equally long vectors, rounded once; shape (n,)."""
    total, rest = parts[0].astype(np.longdouble), np.zeros(len(parts[0]), np.longdouble)
    for part in parts[1:]:  # two-sum: `rest` holds exactly what `total` had to drop
        added = total + part
        shadow = added - total
        rest += (total - (added - shadow)) + (part - shadow)
        total = added
    return (total + rest).astype(np.float64)
