"""`v6-overlay image`: the station's allow-list of algorithm images."""

from __future__ import annotations

import json

import click


@click.group()
def image() -> None:
    """Algorithm images that may use the overlay on this station, by digest.

    \b
      v6-overlay image allow registry.example/v6-overlay/sums:0.1.0
    """


_form = click.option("--format", "form", type=click.Choice(["text", "json"]), default="text")


@image.command()
@click.argument("ref")
@_form
def allow(ref: str, form: str) -> None:
    """Allow REF: a digest, an image id, or a tag that the local engine knows."""
    from overlay.station import images

    changed, entry = images.allow(ref)
    _show({"image": entry, "changed": changed}, "allowed" if changed else "allowed already", form)


@image.command()
@click.argument("ref")
@_form
def remove(ref: str, form: str) -> None:
    """Take REF off the allow-list; runs that are under way go on."""
    from overlay.station import images

    changed, entry = images.disallow(ref)
    _show({"image": entry, "changed": changed}, "removed" if changed else "was not allowed", form)


@image.command("list")
@_form
def list_(form: str) -> None:
    """Show the allow-list."""
    from overlay.station import images

    entries = images.listed()
    if form == "json":
        click.echo(json.dumps({"images": entries}))
        return
    for entry in entries:
        click.echo(entry)


def _show(result: dict[str, object], words: str, form: str) -> None:
    click.echo(json.dumps(result) if form == "json" else f"{words}: {result['image']}")
