"""`v6-overlay init`: shows the steps as they are done, then the join commands once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from overlay.cli.options import format_option
from overlay.errors import UsageError


@click.command(
    epilog="Example: v6-overlay init --collaboration 1=heart --address central.example.org"
    " --vantage6-url https://central.example.org/api --station hospital-1 --station hospital-2"
)
@click.option(
    "--collaboration", required=True, metavar="ID[=NAME]", help="The vantage6 collaboration."
)
@click.option(
    "--address",
    required=True,
    help="Name or address at which stations reach this host: HTTPS and WireGuard.",
)
@click.option("--vantage6-url", required=True, help="The vantage6 server's API, with /api.")
@click.option(
    "--enrol-url",
    default="",
    help="What join commands name: the vantage6 server with the plug-in, without /api."
    "  [default: this manager's own port 7602]",
)
@click.option(
    "--station",
    "stations",
    multiple=True,
    help="A station: its vantage6 organization's name in lower case, with dashes. Repeat it.",
)
@click.option(
    "--wireguard-subnet",
    default="",
    help="CIDR of all hosts inside WireGuard.  [default: one that is free]",
)
@click.option(
    "--overlay-subnet",
    default="",
    help="CIDR of the collaboration's network.  [default: one that is free]",
)
@click.option(
    "--inventory",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/v6-overlay/inventory.yml"),
    show_default=True,
    help="The Ansible inventory to write.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, and change nothing.")
@format_option
def init(
    collaboration: str,
    address: str,
    vantage6_url: str,
    enrol_url: str,
    stations: tuple[str, ...],
    wireguard_subnet: str,
    overlay_subnet: str,
    inventory: Path,
    dry_run: bool,
    form: str,
) -> None:
    """Make this host the central host of a collaboration; a second run changes nothing."""
    from overlay.identity import station_name
    from overlay.manager import init as steps
    from overlay.manager import tokens
    from overlay.manager.choice import Request

    number, _, name = collaboration.partition("=")
    if not number.isdigit() or int(number) < 1:
        raise UsageError(f"--collaboration {collaboration!r} does not begin with a number")
    for station in stations:
        if station_name(station) != station:
            raise UsageError(f"--station {station!r} is not {station_name(station)!r}")
    request = Request(
        collaboration_id=int(number),
        collaboration_name=name,
        address=address,
        vantage6_url=vantage6_url.rstrip("/"),
        stations=tuple(dict.fromkeys(stations)),
        enrol_url=enrol_url.rstrip("/"),
        wireguard_subnet=wireguard_subnet,
        overlay_subnet=overlay_subnet,
        inventory=inventory,
    )
    central = steps.prepare(request)
    report: list[dict[str, str]] = []
    for step in central.steps():
        state = "unchanged" if step.done() else "to do" if dry_run else "changed"
        if state == "changed":
            step.apply()
        report.append({"step": step.title, "state": state})
        if form == "text":
            click.echo(f"{state:>9}  {step.title}")
    result: dict[str, Any] = {
        "collaboration_id": request.collaboration_id,
        "steps": report,
        "wireguard_subnet": central.wanted.wireguard_subnet,
        "overlay_subnet": central.overlay_subnet,
        "inventory": str(inventory),
        "join": [],
    }
    joins = []
    if not dry_run:
        result["manager_ca_fingerprint"] = central.authority.manager_fingerprint()
        result["collaboration_ca_fingerprint"] = central.authority.collaboration_fingerprint(
            request.collaboration_id
        )
        waiting = tokens.not_joined(request.stations, request.collaboration_id)
        joins = [tokens.create(item, request.collaboration_id) for item in waiting]
    if form == "json":
        result["join"] = [join.as_dict(tokens.save(join)) for join in joins]
        click.echo(json.dumps(result))
        return
    if dry_run:
        click.echo("\nnothing was changed; next: the same command without --dry-run")
        return
    click.echo(f"\nResearchers pin {result['collaboration_ca_fingerprint']}")
    for join in joins:
        click.echo(f"\nOn {join.station}, as root, within the hour (this is shown only once):")
        click.echo(f"  {join.shell_line}")
    if not joins:
        click.echo("next: v6-overlay token create --station NAME, for each station that is to join")
