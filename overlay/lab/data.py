"""What the stations hold: one CSV each (yours, or breast_cancer in parts) and one long vector."""

from __future__ import annotations

import shutil
from pathlib import Path

from overlay.errors import UsageError
from overlay.lab.state import CACHE

VECTOR_ROWS = 1_000_000


def station_csvs(stations: int, directory: Path | None) -> list[Path]:
    """One CSV file per station, in the order of the stations.

    Args:
        stations: how many.
        directory: the user's files, taken in sorted order of name; None for scikit-learn's own.

    Raises:
        UsageError: the directory has another number of CSV files than there are stations.
    """
    if directory is None:
        return _breast_cancer(stations)
    files = sorted(directory.glob("*.csv"))
    if len(files) != stations:
        raise UsageError(
            f"{directory} holds {len(files)} CSV files for {stations} stations",
            next_step=f"v6-overlay lab up --stations {len(files)} --data {directory}",
        )
    return files


def vector_csv(index: int) -> Path:
    """The station's vector: 1,000,000 rows of one float column `x`, the same at every call."""
    path = CACHE / "data" / f"vector-{VECTOR_ROWS}-{index}.csv"
    if not path.exists():
        import numpy as np

        values = np.random.default_rng(7000 + index).integers(-(10**9), 10**9, VECTOR_ROWS)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("x\n" + "\n".join(f"{value / 1e6:.6f}" for value in values.tolist()) + "\n")
        part.replace(path)
    return path


def place(directory: Path, default: Path, vector: Path) -> None:
    """Copy a station's files to where its node will look for them."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(default, directory / "default.csv")
    shutil.copyfile(vector, directory / "vector.csv")


def _breast_cancer(stations: int) -> list[Path]:
    """Station i of n holds a share in proportion to i + 2, so that no two are equal."""
    folder = CACHE / "data" / f"breast-cancer-{stations}"
    paths = [folder / f"part-{index:03d}.csv" for index in range(stations)]
    if all(path.exists() for path in paths):
        return paths
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer(as_frame=True).frame
    table.columns = [name.replace(" ", "_") for name in table.columns]
    weights = np.arange(2, stations + 2)
    cuts = (np.cumsum(weights)[:-1] * len(table) // weights.sum()).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [0, *cuts, len(table)]
    for path, start, stop in zip(paths, bounds, bounds[1:], strict=False):
        table.iloc[start:stop].to_csv(path, index=False)
    return paths
