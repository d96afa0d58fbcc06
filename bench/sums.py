"""Time secure sums between real processes over mutual TLS on loopback, beside a plain numpy sum.

script/bench sums [--parties 3 5] [--elements 1000000] [--repeat 5] [--json FILE]

Every party is a process with an identity of its own that joins a real group. Measured is the
slowest party's time from the first share to the sum, joining left out; the median of the repeats is
shown. Every sum is compared with numpy's, element by element.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from algorithms.common.engine import run_machine
from algorithms.dk_secure_sum.protocol import DkSecureSum
from algorithms.secure_sum.protocol import SecureSum
from overlay.peer import Group
from overlay.peer.testing import local_groups

MACHINES = {machine.NAME: machine for machine in (SecureSum, DkSecureSum)}


def vector(party: int, elements: int) -> np.ndarray:
    """A party's uniform ring vector, the same in every process."""
    return np.random.default_rng(party).integers(0, 2**64, elements, dtype=np.uint64)


def party(name: str, number: int, path: Path, elements: int, repeat: int, out: Any) -> None:
    """One party's process: (seconds of every repeat, digest-free check of every sum)."""
    own = vector(number, elements)
    times, sums = [], []
    with Group.join(rendezvous=60, path=path) as group:
        for turn in range(repeat):
            group.exchange(dict.fromkeys(group.others, b"ready"), round=100 + turn)
            started = time.perf_counter()
            total = run_machine(MACHINES[name], group, own, lambda text: None)
            times.append(time.perf_counter() - started)
            sums.append(total)
    truth = sum(vector(i, elements) for i in range(len(group.stations)))
    out.put((times, all(np.array_equal(total, truth) for total in sums)))


def measure(name: str, parties: int, elements: int, repeat: int) -> dict[str, Any]:
    """The slowest party of every repeat, and whether all sums were right."""
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        paths = local_groups(parties, Path(directory))
        out = spawn.Queue()
        workers = [
            spawn.Process(target=party, args=(name, i, path, elements, repeat, out), daemon=True)
            for i, path in enumerate(paths)
        ]
        for worker in workers:
            worker.start()
        answers = [out.get(timeout=300) for _ in workers]
        for worker in workers:
            worker.join()
    slowest = [max(times) for times in zip(*(times for times, _ in answers), strict=True)]
    return {
        "what": name,
        "parties": parties,
        "elements": elements,
        "median_seconds": statistics.median(slowest),
        "seconds": slowest,
        "correct": all(correct for _, correct in answers),
    }


def plain(parties: int, elements: int, repeat: int) -> dict[str, Any]:
    """The same sum by numpy in one process: no network and no privacy."""
    vectors = [vector(i, elements) for i in range(parties)]
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        total = np.zeros(elements, np.uint64)
        for one in vectors:
            total += one
        times.append(time.perf_counter() - started)
    return {
        "what": "numpy, one process",
        "parties": parties,
        "elements": elements,
        "median_seconds": statistics.median(times),
        "seconds": times,
        "correct": True,
    }


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parties", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--elements", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = []
    for parties in args.parties:
        rows.append(plain(parties, args.elements, args.repeat))
        rows += [measure(name, parties, args.elements, args.repeat) for name in MACHINES]
    table = Table("protocol", "parties", "elements", "median ms", "correct")
    for row in rows:
        table.add_row(
            row["what"],
            str(row["parties"]),
            f"{row['elements']:,}",
            f"{1000 * row['median_seconds']:.1f}",
            "yes" if row["correct"] else "NO",
        )
    Console().print(table)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    if not all(row["correct"] for row in rows):
        raise SystemExit("a sum was wrong")


if __name__ == "__main__":
    main()
