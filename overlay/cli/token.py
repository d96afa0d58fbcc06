"""`v6-overlay token`: a fresh join command for one station."""

from __future__ import annotations

import json

import click


@click.group()
def token() -> None:
    """Join tokens: one station, one use, an hour's life."""


@token.command(epilog="Example: v6-overlay token create --station hospital-2")
@click.option("--station", required=True, help="The station's name.")
@click.option("--collaboration", type=int, help="Its number.  [default: the only one]")
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(1, 1440))
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")
def create(station: str, collaboration: int | None, minutes: int, form: str) -> None:
    """Make a token for a station and show its join command once."""
    from overlay.manager import tokens

    number = tokens.only_collaboration() if collaboration is None else collaboration
    join = tokens.create(station, number, life=60.0 * minutes)
    if form == "json":
        path = tokens.save(join)
        value = {"station": station, "command": join.command, "token_file": str(path)}
        click.echo(json.dumps(value | {"expires": int(join.expires)}))
        return
    click.echo(f"On {station}, as root, within {minutes} minutes (this is shown only once):")
    click.echo(f"  {join.shell_line}")
