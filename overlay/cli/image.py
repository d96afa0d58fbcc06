"""`v6-overlay image`: the station's allow-list of algorithm images."""

from __future__ import annotations

import json

import click

from overlay.cli.options import format_option


@click.group()
def image() -> None:
    """Algorithm images that may use the overlay on this station, by digest."""


@image.command(epilog="Example: v6-overlay image allow registry.example/v6-overlay/sums:0.1.0")
@click.argument("ref")
@format_option
def allow(ref: str, form: str) -> None:
    """Allow REF: a digest, or a tag that this engine has pulled.

    A tag is resolved here and now: what is allowed is its digest, whatever the tag means later.
    """
    from overlay.station import images

    changed, entry = images.allow(ref)
    _show({"image": entry, "changed": changed}, "allowed" if changed else "allowed already", form)


@image.command(
    epilog="Example: v6-overlay image remove registry.example/v6-overlay/sums@sha256:..."
)
@click.argument("ref")
@format_option
def remove(ref: str, form: str) -> None:
    """Take REF off the allow-list; runs that are under way go on."""
    from overlay.station import images

    changed, entry = images.disallow(ref)
    _show({"image": entry, "changed": changed}, "removed" if changed else "was not allowed", form)


@image.command("list")
@format_option
def list_(form: str) -> None:
    """Show the allow-list."""
    from overlay.station import images

    entries = images.listed()
    if form == "json":
        click.echo(json.dumps({"images": entries}))
        return
    for entry in entries:
        click.echo(entry)
    if not entries:
        click.echo("no image is allowed; next: v6-overlay image allow REF", err=True)


def _show(result: dict[str, object], words: str, form: str) -> None:
    click.echo(json.dumps(result) if form == "json" else f"{words}: {result['image']}")
