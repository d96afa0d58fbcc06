"""A task's arguments are checked before anything else happens; a wrong one is a UsageError."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from algorithms.common.encoding import MISSING_RULES, Scale
from overlay.errors import OverlayError, UsageError

Bound = float | Mapping[str, float] | None
Entry = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Rules:
    """What the task says about every cell: scale of floats, public bound, missing values."""

    scale: Scale
    bound: Bound
    missing: str

    def __post_init__(self) -> None:
        limits = self.bound.values() if isinstance(self.bound, Mapping) else [self.bound]
        for limit in limits:
            if limit is not None and not (_is_number(limit) and 0 < limit < math.inf):
                raise UsageError("bound must be a positive number, or one per column by name")
        if self.missing not in MISSING_RULES:
            raise UsageError(f"missing must be one of {', '.join(MISSING_RULES)}")

    def bound_of(self, column: str) -> float | None:
        """The public bound on |value| of a column's cells, if the task gives one."""
        return self.bound.get(column) if isinstance(self.bound, Mapping) else self.bound

    def as_dict(self) -> dict[str, Any]:
        """The rules as they are agreed on, attested and reported."""
        bound = dict(self.bound) if isinstance(self.bound, Mapping) else self.bound
        return {"scale": self.scale.text, "bound": bound, "missing": self.missing}


def entry_point(function: Entry) -> Entry:
    """Make a vantage6 function end a user's mistake as one clear line.

    Unknown arguments become a UsageError that lists the allowed ones. An error that is not ours
    is reported by its type alone: its text could hold a data value.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(
                f"{function.__name__}: {error}",
                next_step=f"allowed arguments: {', '.join(signature.parameters)}",
            ) from None
        try:
            return function(*args, **kwargs)
        except OverlayError:
            raise
        except Exception as error:
            raise OverlayError(
                f"{function.__name__} failed on this station",
                why=f"unexpected {type(error).__name__}",
                next_step="report it with the version that about() gives",
            ) from error

    return run


def column_names(columns: object) -> tuple[str, ...] | None:
    """The requested columns, or None for all numeric ones. Raises UsageError."""
    if columns is None:
        return None
    if (
        not isinstance(columns, Sequence)
        or isinstance(columns, str)
        or not columns
        or not all(isinstance(name, str) and name for name in columns)
        or len(set(columns)) != len(columns)
    ):
        raise UsageError("columns must be a list of different column names")
    return tuple(columns)


def positive(name: str, value: object) -> float:
    """A positive number, as given. Raises UsageError."""
    if not _is_number(value) or not 0 < value < math.inf:  # type: ignore[operator]
        raise UsageError(f"{name} must be a positive number")
    return value  # type: ignore[return-value]


def count(name: str, value: object, *, least: int) -> int:
    """A whole number from `least` on. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UsageError(f"{name} must be a whole number from {least}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
