"""`v6-overlay token`: a fresh join command for one station."""

from __future__ import annotations

import json

import click

from overlay.cli.options import format_option


@click.group()
def token() -> None:
    """Join tokens for stations: one station, one use, a short life."""


@token.command(epilog="Example: v6-overlay token create --station hospital-2")
@click.option(
    "--station", required=True, help="Its vantage6 organization's name in lower case, with dashes."
)
@click.option(
    "--collaboration", type=int, help="The collaboration's number.  [default: the only one]"
)
@click.option(
    "--minutes",
    default=60,
    show_default=True,
    type=click.IntRange(1, 1440),
    help="How long it can be used.",
)
@format_option
def create(station: str, collaboration: int | None, minutes: int, form: str) -> None:
    """Make a token for a station and show its join command once."""
    from overlay.manager import tokens

    number = tokens.only_collaboration() if collaboration is None else collaboration
    join = tokens.create(station, number, life=60.0 * minutes)
    if form == "json":
        click.echo(json.dumps(join.as_dict(tokens.save(join))))
        return
    click.echo(f"On {station}, as root, within {minutes} minutes (this is shown only once):")
    click.echo(f"  {join.shell_line}")
