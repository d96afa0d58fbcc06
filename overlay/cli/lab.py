"""`v6-overlay lab`: renders what the lab returns, decides nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import click

from overlay.cli.options import format_option


@click.group()
def lab() -> None:
    """Several real hosts on this machine, each with its own Docker Engine."""


@lab.command(epilog="Example: v6-overlay lab up --stations 5 --data my-data")
@click.option("--stations", default=3, show_default=True, help="How many station hosts, 1 to 60.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory with one CSV per station, given out in sorted order.  [default: breast_cancer]",
)
@format_option
def up(stations: int, data: Path | None, form: str) -> None:
    """Bring up a central host and stations, with vantage6 and the overlay."""
    from rich.console import Console

    from overlay.lab.lab import Lab

    console = Console(stderr=True)
    began = time.monotonic()

    def show(step: str) -> None:
        console.print(
            f"[dim]{time.monotonic() - began:6.1f} s[/dim]  {step}", highlight=False, soft_wrap=True
        )

    made = Lab.up(stations, data, show)
    seconds = time.monotonic() - began
    if form == "json":
        public = {"hosts": made.state.hosts, "server_url": made.state.server_url}
        click.echo(json.dumps({**public, "image": made.state.image, "seconds": round(seconds, 1)}))
        return
    click.echo(f"up in {seconds:.1f} s: {', '.join(made.state.hosts)}")
    click.echo("next: v6-overlay lab status | exec HOST -- CMD | ssh HOST | down")


@lab.command()
@format_option
def down(form: str) -> None:
    """Remove the lab; only the cache of images stays."""
    from overlay.lab.lab import down as remove

    remove(lambda step: click.echo(step, err=True))
    if form == "json":
        click.echo(json.dumps({"removed": True}))


@lab.command()
@format_option
def status(form: str) -> None:
    """Show every host, and whether its engine and its vantage6 node run."""
    from overlay.lab.lab import Lab

    rows = Lab.load().status()
    if form == "json":
        click.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0].keys())
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@lab.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    epilog="Example: v6-overlay lab exec hospital-1 -- docker ps",
)
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on HOST as root."""
    from overlay.lab.lab import Lab

    argv = Lab.load().exec_argv(host, command, terminal=sys.stdin.isatty())
    os.execvp(argv[0], argv)  # noqa: S606


@lab.command(epilog="Example: v6-overlay lab ssh central")
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(host: str, command: tuple[str, ...]) -> None:
    """Open a shell, or run COMMAND, on HOST through its own sshd."""
    from overlay.lab.lab import Lab

    argv = [*Lab.load().ssh_argv(host), *command]
    os.execvp(argv[0], argv)  # noqa: S606
