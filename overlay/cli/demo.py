"""`v6-overlay demo`: prints what the demonstration measured, and fails where a promise broke."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click
from rich import box
from rich.console import Console
from rich.table import Table

from overlay.cli.options import format_option
from overlay.errors import EvidenceError

if TYPE_CHECKING:
    from overlay.lab.demo_report import Report


@click.command(epilog="Example: v6-overlay demo --stations 5 --out my-report")
@click.option("--stations", type=click.IntRange(3, 20), help="How many stations.  [default: 3]")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="One CSV file per station, given out in sorted order, instead of the built-in data.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    show_default=True,
    help="Where report.json and report.html go.",
)
@click.option("--keep", is_flag=True, help="Leave the lab up.")
@format_option
def demo(stations: int | None, data: Path | None, out: Path, keep: bool, form: str) -> None:
    """See secure sums travel station to station, on real hosts on this machine.

    Starts a vantage6 server and its nodes, each on a host of its own, joins them with an
    encrypted overlay, runs secure sums over it and captures who speaks to whom. Needs root.
    Ends with status 1 and a named error if a sum is off, an overlay packet was seen in clear,
    or a control did not show what it must.
    """
    from overlay.lab.demo import demonstrate

    notes = Console(stderr=True, highlight=False)
    started = time.monotonic()

    def progress(line: str) -> None:
        notes.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {line}", soft_wrap=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    report = demonstrate(stations, data, out, keep=keep, progress=progress)
    if form == "json":
        click.echo(json.dumps(report.as_dict(), indent=1, allow_nan=False))
    else:
        show(report, Console(highlight=False), out)
    try:
        report.raise_for_checks()
    except EvidenceError as error:
        if form == "text":
            raise
        # The report on stdout names the broken promise already, and stays one JSON document.
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)


def show(report: Report, console: Console, out: Path) -> None:
    """Print the tables of a report."""
    from overlay.capture import Kind
    from overlay.capture.picture import human_bytes
    from overlay.lab.demo_report import SERVER

    sums = _table("Sums against the pooled truth")
    for head in ("task", "rows", "sums", "largest error", "allowed", "seconds"):
        sums.add_column(head, justify="left" if head == "task" else "right")
    for run in (*report.sums, report.control):
        sums.add_row(
            run.title,
            f"{run.rows:,}",
            f"{run.elements or len(run.result or {}):,}",
            f"{run.max_abs_error:.3g}",
            f"{run.allowed_error:.3g}",
            f"{run.seconds:.1f}",
        )
    console.print(sums)

    pairs = _table(f"Packets on the outer network: {report.vector.title}")
    kinds = {Kind.WIREGUARD: "WireGuard", Kind.PLAIN_OVERLAY: "clear"}
    for head in ("from", "to", "bytes", "packets", *(kinds.get(k, k.value) for k in Kind)):
        left = head in ("from", "to")
        pairs.add_column(head, justify="left" if left else "right", no_wrap=True)
    seen = report.vector.traffic
    for (src, dst), (octets, packets) in seen.by_hosts().items():
        counts = [sum(p.packets for p in seen.select([src], [dst], kind)) for kind in Kind]
        pairs.add_row(src, dst, f"{octets:,}", f"{packets:,}", *(f"{n:,}" for n in counts))
    console.print(pairs)

    server = _table(f"Bytes between a station and {SERVER}")
    columns = (report.empty, report.vector, report.control)
    server.add_column("station")
    for run in columns:
        server.add_column(run.title, justify="right")
    for name in report.stations:
        server.add_row(name, *(human_bytes(r.server_bytes(report.stations)[name]) for r in columns))
    console.print(server)

    total = sum(report.through_server(report.vector).values())
    console.print(
        f"station to station: {human_bytes(report.vector.station_bytes(report.stations))}; "
        f"through the server beyond an empty task: {human_bytes(total)}; "
        f"overlay packets in clear: {report.plaintext_overlay_packets}\n"
    )
    for check in report.checks():
        mark = "[green]holds[/green] " if check.passed else "[red]BROKEN[/red]"
        console.print(f"{mark} {check.claim} ({check.measured})")
    console.print(f"\nNext: open {out / 'report.html'}")


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, also on a plain `kill`; a second one does not stop the taking down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
