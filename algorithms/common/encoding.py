"""Numbers become ring elements exactly: one rounding per station and total, never a clip.

The ring is Z_2^64, held in uint64 arrays whose wrap-around is wanted. A number x stands in it as
round(x * factor) in two's complement; factor is 1 for integers, 2^fraction_bits or 10^decimals
for floats. A station's column total is computed exactly (arbitrary precision) and rounded once,
so that P stations together differ from the exact pooled sum by at most P / (2 * factor).

Overflow cannot happen: each station refuses a total beyond capacity(P) = (2^63 - 1) // P before
anything is sent. Errors name the column and the rule, never a value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overlay.errors import MissingValues, OutOfBounds, UsageError

RING_BITS = 64
MAX_FRACTION_BITS = 60
MAX_DECIMALS = 18
DEFAULT_FRACTION_BITS = 32
MISSING_RULES = ("refuse", "skip")

Vector = NDArray[np.uint64]
Numbers = NDArray[Any]

_LOW = 26  # a 53-bit mantissa is split into 27 high and 26 low bits, summed apart without error
_BLOCK = 1 << 24  # elements per partial sum: 2^27 * 2^24 stays exact in a float64


@dataclass(frozen=True)
class Scale:
    """How a column stands in the ring: x -> round(x * base**digits)."""

    base: int
    digits: int

    @property
    def factor(self) -> int:
        """The ring elements per unit."""
        return int(self.base**self.digits)

    @property
    def text(self) -> str:
        """The factor as people write it: "2^32"."""
        return f"{self.base}^{self.digits}"


INTEGER = Scale(1, 0)  # not 2^0: a float column without fraction bits still rounds


def float_scale(fraction_bits: int | None = None, decimals: int | None = None) -> Scale:
    """The scale of float columns from a task's arguments. Raises UsageError."""
    if decimals is not None and fraction_bits is not None:
        raise UsageError("decimals and fraction_bits exclude each other", next_step="give one")
    if decimals is not None:
        return Scale(10, _within("decimals", decimals, MAX_DECIMALS))
    bits = DEFAULT_FRACTION_BITS if fraction_bits is None else fraction_bits
    return Scale(2, _within("fraction_bits", bits, MAX_FRACTION_BITS))


def capacity(stations: int) -> int:
    """The largest |ring value| a station may put in, so that `stations` of them cannot overflow."""
    return ((1 << (RING_BITS - 1)) - 1) // stations


def kind_of(values: Numbers) -> str | None:
    """ "int" (bool, any integer), "float" or None where the array is not numeric."""
    return {"b": "int", "i": "int", "u": "int", "f": "float"}.get(values.dtype.kind)


def clean(
    values: Numbers,
    column: str,
    *,
    bound: float | None,
    missing: str,
    gaps: NDArray[np.bool_] | None = None,
    keep_length: bool = False,
) -> Numbers:
    """The cells that count: checked against infinity, missing values and the public bound.

    Args:
        values: one column, shape (rows,), bool, integer or float.
        column: its name, for messages.
        bound: public bound on |value| of every cell, or None.
        missing: "refuse", or "skip" to leave missing cells out.
        gaps: which cells are missing besides NaN, shape (rows,), or None.
        keep_length: a skipped cell becomes 0 instead of being left out (vectors by row).

    Raises:
        MissingValues: a missing cell where `missing` is "refuse".
        OutOfBounds: infinity, or a cell beyond `bound`.
    """
    if values.dtype.kind == "f":
        values = values.astype(np.float64, copy=False)  # float32 and float16 are exact in float64
        if not np.isfinite(values).all():
            if np.isinf(values).any():
                raise OutOfBounds(f"column {column!r} holds an infinite value", why="rule: finite")
            gaps = np.isnan(values) if gaps is None else gaps | np.isnan(values)
    if gaps is not None and gaps.any():
        if missing != "skip":
            raise MissingValues(
                f"column {column!r} has missing values",
                why="rule: missing='refuse'",
                next_step="pass missing='skip' to leave them out, or clean the column",
            )
        values = np.where(gaps, values.dtype.type(0), values) if keep_length else values[~gaps]
    if bound is not None and values.size and not _inside(values, bound):
        raise OutOfBounds(
            f"column {column!r} has a cell beyond the public bound",
            why=f"rule: |value| <= {bound}",
            next_step="raise bound in the task, or clean the column",
        )
    return values


def encode_total(values: Numbers, column: str, scale: Scale, stations: int) -> int:
    """The ring value of a column's total: exact sum, one rounding (ties to even), shape () int.

    Args:
        values: finite cells, shape (rows,).
        column: its name, for messages.
        scale: the agreed scale.
        stations: P, the number of stations that sum.

    Raises:
        OutOfBounds: the total does not fit the ring's capacity for P stations.
    """
    numerator, shift = _exact_sum(values)
    total = _round_shift(numerator * scale.factor, shift)
    if abs(total) > capacity(stations):
        raise _too_large(f"the total of column {column!r}", scale, stations)
    return total


def encode_vector(values: Numbers, column: str, scale: Scale, stations: int) -> Vector:
    """Element by element into the ring: shape (n,) -> uint64 (n,), one rounding per element.

    `scale` has base 2, so that the product is exact before it is rounded.

    Raises:
        OutOfBounds: an element does not fit the ring's capacity for P stations.
    """
    limit = capacity(stations)
    if values.dtype.kind != "f":  # exact in int64, also beyond the 53 bits of a float64
        if values.size and not _inside(values, limit // scale.factor):
            raise _too_large(f"an element of column {column!r}", scale, stations)
        return (values.astype(np.int64) * np.int64(scale.factor)).view(np.uint64)
    with np.errstate(over="ignore"):
        scaled = values * math.ldexp(1.0, scale.digits)
    np.rint(scaled, out=scaled)
    # limit - 1024 rounds down to a float64 at or below limit, so that no rounding lets one pass.
    if scaled.size and max(scaled.max(), -scaled.min()) > float(limit - 1024):
        raise _too_large(f"an element of column {column!r}", scale, stations)
    return scaled.astype(np.int64).view(np.uint64)


def ring(values: Sequence[int]) -> Vector:
    """Signed Python integers as ring elements, shape (len(values),)."""
    return np.array(values, dtype=np.int64).view(np.uint64)


def signed(vector: Vector) -> list[int]:
    """Ring elements as signed Python integers."""
    return [int(value) for value in vector.view(np.int64)]


def decode_total(value: int, scale: Scale) -> int | float:
    """A summed ring value as a number: exact int for integer columns, nearest float otherwise."""
    return value if scale == INTEGER else value / scale.factor


def decode_vector(vector: Vector, scale: Scale) -> NDArray[np.int64] | NDArray[np.float64]:
    """A summed ring vector as int64 (integers) or as the nearest float64 of each element."""
    numbers = vector.view(np.int64)
    if scale == INTEGER:
        return numbers
    return numbers.astype(np.float64) * math.ldexp(1.0, -scale.digits)


def error_bound(value: float, scale: Scale, stations: int) -> float:
    """The largest possible |reported - exact pooled sum|.

    P / (2 * factor) for the stations' roundings, plus half the spacing of the reported float64
    where the sum has more bits than a float64 holds. 0 for integer columns.
    """
    if scale == INTEGER:
        return 0.0
    exact_in_float = abs(value) * scale.factor < 2**53 and scale.base == 2
    return stations / (2 * scale.factor) + (0.0 if exact_in_float else math.ulp(value) / 2)


def _exact_sum(values: Numbers) -> tuple[int, int]:
    """The exact sum as (numerator, shift): sum = numerator / 2^shift."""
    if values.dtype.kind in "bu":
        wide = values.astype(np.uint64)
        return _split_sum((wide >> np.uint64(32), wide & np.uint64(0xFFFFFFFF)), 32), 0
    if values.dtype.kind == "i":
        signed_wide = values.astype(np.int64)
        return _split_sum((signed_wide >> 32, signed_wide & 0xFFFFFFFF), 32), 0
    mantissas, exponents = np.frexp(values.astype(np.float64, copy=False))
    whole = np.ldexp(mantissas, 53).astype(np.int64)
    if not whole.any():
        return 0, 0
    lowest = int(exponents[whole != 0].min())
    places = np.where(whole == 0, 0, exponents - lowest)
    numerator = 0
    for start in range(0, whole.size, _BLOCK):
        block, place = whole[start : start + _BLOCK], places[start : start + _BLOCK]
        high = np.bincount(place, weights=block >> _LOW)
        low = np.bincount(place, weights=block & ((1 << _LOW) - 1))
        for position in np.flatnonzero((high != 0) | (low != 0)):
            part = (int(high[position]) << _LOW) + int(low[position])
            numerator += part << int(position)
    shift = 53 - lowest
    return (numerator, shift) if shift >= 0 else (numerator << -shift, 0)


def _split_sum(parts: tuple[Numbers, Numbers], low_bits: int) -> int:
    """Sum of halves of 32 bits each: no 64-bit partial sum overflows below 2^31 rows."""
    high, low = parts
    return (int(high.sum()) << low_bits) + int(low.sum())


def _round_shift(numerator: int, shift: int) -> int:
    """numerator / 2^shift rounded to the nearest integer, ties to even."""
    if shift == 0:
        return numerator
    quotient = numerator >> shift
    twice = (numerator - (quotient << shift)) << 1
    half = 1 << shift
    return quotient + (1 if twice > half or (twice == half and quotient & 1) else 0)


def _inside(values: Numbers, limit: float) -> bool:
    """Whether every |cell| <= limit; Python numbers, so that int64's minimum and uint64 compare."""
    return bool(-limit <= values.min().item() and values.max().item() <= limit)


def _too_large(what: str, scale: Scale, stations: int) -> OutOfBounds:
    return OutOfBounds(
        f"{what} exceeds the ring's capacity",
        why=f"rule: |value| * {scale.text} < 2^63 / {stations} stations",
        next_step="lower fraction_bits or decimals, or rescale the column",
    )


def _within(name: str, value: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise UsageError(f"{name} must be a whole number from 0 to {most}")
    return value
