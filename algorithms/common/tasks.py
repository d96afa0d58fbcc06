"""The two things people sum: the columns of a table, and one column as a vector by row.

Nothing that depends on a value leaves the station unmasked: names and kinds of columns do, and
the row count of a vector whose length the task does not give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.common.arguments import Rules
from algorithms.common.columns import cells, kinds_from, merge_kinds, numeric_columns
from algorithms.common.encoding import (
    INTEGER,
    clean,
    decode_total,
    decode_vector,
    encode_total,
    encode_vector,
    error_bound,
    ring,
    signed,
)
from algorithms.common.engine import (
    Channel,
    Progress,
    agree_metadata,
    own_data,
    release,
    require_stations,
    run_machine,
)
from algorithms.common.protocol import SumMachine
from overlay.errors import ColumnError, ProtocolError, UsageError

if TYPE_CHECKING:
    import pandas as pd


def sum_columns(
    channel: Channel,
    machine: type[SumMachine],
    frame: pd.DataFrame,
    columns: tuple[str, ...] | None,
    rules: Rules,
    progress: Progress,
) -> dict[str, Any]:
    """Sum columns over all stations, and the row count with them.

    Args:
        channel: the group of this run.
        machine: the protocol.
        frame: this station's table.
        columns: names, or None for all numeric columns.
        rules: how cells are read.
        progress: takes lines for the task log.

    Returns:
        What this station returns to vantage6; see `docs/researcher.md`.

    Raises:
        TooFewStations, EmptyStation, ColumnError, MissingValues, OutOfBounds: this station
            refuses, before it has sent a share.
        PeerError: another station refused, is gone, or broke the protocol.
    """
    require_stations(channel)
    own = numeric_columns(frame, columns, channel.me)
    arguments = {"machine": machine.NAME, "columns": list(columns or ()), **rules.as_dict()}
    said = agree_metadata(channel, arguments, own)
    kinds = merge_kinds({station: kinds_from(station, said[station]) for station in said})
    unknown = sorted(set(rules.bound if isinstance(rules.bound, Mapping) else ()) - set(kinds))
    if unknown:
        raise UsageError(f"bound names {unknown[0]!r}, which is not a column of the sum")

    count = len(channel.stations)
    values, present = [frame.shape[0]], []
    for name, kind in kinds.items():
        scale = INTEGER if kind == "int" else rules.scale
        with own_data(channel):
            raw, gaps = cells(frame, name)
            counted = clean(raw, name, bound=rules.bound_of(name), missing=rules.missing, gaps=gaps)
            values.append(encode_total(counted, name, scale, count))
        present.append(counted.size)
    if rules.missing == "skip":
        values += present
    totals = signed(run_machine(machine, channel, ring(values), progress))

    sums = {}
    bounds = {}
    for (name, kind), total in zip(kinds.items(), totals[1:], strict=False):
        scale = INTEGER if kind == "int" else rules.scale
        sums[name] = decode_total(total, scale)
        bounds[name] = error_bound(sums[name], scale, count)
    report = _header(channel, machine, {"columns": kinds, **rules.as_dict()})
    report |= {"rows": totals[0], "sums": sums, "error_bound": bounds}
    if rules.missing == "skip":
        report["counts"] = dict(zip(kinds, totals[1 + len(kinds) :], strict=True))
    return release(channel, report, progress)


def sum_vector(
    channel: Channel,
    machine: type[SumMachine],
    frame: pd.DataFrame,
    column: str,
    length: int | None,
    rules: Rules,
    progress: Progress,
    *,
    elements: int,
    whole: bool,
) -> dict[str, Any]:
    """Sum one column element by element over all stations, row i with row i.

    Args:
        channel: the group of this run.
        machine: the protocol.
        frame: this station's table.
        column: its column to read as a vector.
        length: the first so many rows; None for all, and then the stations tell one another
            their row counts, because all must have the same.
        rules: how cells are read; a skipped cell counts as 0.
        progress: takes lines for the task log.
        elements: how many leading elements come back.
        whole: whether the whole vector comes back, through the server.

    Raises:
        As `sum_columns`.
    """
    require_stations(channel)
    kind = numeric_columns(frame, (column,), channel.me)[column]
    rows = frame.shape[0]
    if length is not None and rows < length:
        raise ColumnError(
            f"column {column!r} at {channel.me} has fewer rows than the vector",
            why=f"rule: length = {length}",
            station=channel.me,
        )
    arguments = {
        "machine": machine.NAME,
        "column": column,
        "length": length,
        "elements": elements,
        "whole": whole,
        **rules.as_dict(),
    }
    size = rows if length is None else length
    said = agree_metadata(channel, arguments, {"kind": kind, "length": size})
    for station, one in said.items():
        if not isinstance(one, dict) or one.get("kind") not in ("int", "float"):
            raise ProtocolError(f"{station} sent no kind and length", station=station)
        if one.get("length") != said[channel.stations[0]].get("length"):
            raise ColumnError(
                f"{station} has another number of rows than {channel.stations[0]}",
                why="a vector is summed row by row",
                next_step="pass length=... to use the first rows",
                station=station,
            )
    agreed = "int" if all(one["kind"] == "int" for one in said.values()) else "float"
    scale = INTEGER if agreed == "int" else rules.scale
    count = len(channel.stations)
    with own_data(channel):
        raw, gaps = cells(frame.iloc[:size], column)
        counted = clean(
            raw,
            column,
            bound=rules.bound_of(column),
            missing=rules.missing,
            gaps=gaps,
            keep_length=True,
        )
        vector = encode_vector(counted, column, scale, count)
    total = decode_vector(run_machine(machine, channel, vector, progress), scale)

    largest = float(np.abs(total).max())
    parameters = {"column": column, "kind": agreed, "length": size, **rules.as_dict()}
    report = _header(channel, machine, parameters)
    report |= {
        "length": size,
        "elements": total[:elements].tolist(),
        "dtype": total.dtype.name,
        "vector_sha256": hashlib.sha256(np.ascontiguousarray(total).data).hexdigest(),
        "error_bound": error_bound(largest, scale, count),
    }
    if whole:
        report["vector"] = total.tolist()
    return release(channel, report, progress)


def _header(
    channel: Channel, machine: type[SumMachine], parameters: dict[str, Any]
) -> dict[str, Any]:
    return {
        "protocol": machine.NAME,
        "stations": list(channel.stations),
        "collusion_threshold": machine.collusion_threshold(len(channel.stations)),
        "parameters": parameters,
    }
