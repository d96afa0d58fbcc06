"""`v6-overlay join`: renders what joining returns, decides nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from overlay.cli.options import format_option


@click.command()
@click.argument("url")
@click.option(
    "--ca-fingerprint",
    required=True,
    help="sha256:<hex> of the manager's CA, as in the operator's command.",
)
@click.option(
    "--node-config",
    required=True,
    type=click.Path(path_type=Path),
    help="The vantage6 node's own YAML configuration.",
)
@click.option(
    "--address",
    help="Address at which other hosts reach this one.  [default: as the server sees it]",
)
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing, use no token.")
@format_option
def join(
    url: str,
    ca_fingerprint: str,
    node_config: Path,
    address: str | None,
    dry_run: bool,
    form: str,
) -> None:
    """Make this host a station of the collaboration that its vantage6 node belongs to.

    The one-use token of `v6-overlay init` or `token create` is read from standard input:

    \b
      printf %s 'TOKEN' | v6-overlay join https://central:7443 \\
          --ca-fingerprint sha256:... --node-config /etc/vantage6/node/hospital-1.yaml
    """
    from overlay.errors import UsageError
    from overlay.station import join as joining
    from overlay.station.host import Host

    request = joining.Request(url.rstrip("/"), ca_fingerprint, node_config, address)
    host = Host()
    if dry_run:
        _show(joining.plan(host, request), form)
        return
    state = joining.present(host)
    if state is not None:
        _show(joining.repair(host, state, node_config), form)
        return
    if sys.stdin.isatty():
        token = click.prompt("join token", hide_input=True, err=True)
    else:
        token = sys.stdin.readline(4096).strip()
    if not token:
        raise UsageError(
            "no join token on standard input",
            next_step="printf %s 'TOKEN' | v6-overlay join ..., as the operator's command has it",
        )
    _show(joining.join(host, request, token, lambda step: click.echo(step, err=True)), form)


def _show(result: dict[str, Any], form: str) -> None:
    if form == "json":
        click.echo(json.dumps(result))
        return
    if result.get("dry_run"):
        click.echo(f"would join {result['server']} with WireGuard ({result['wireguard']}): ")
        click.echo("  " + " -> ".join(result["steps"]))
    elif result["already_joined"]:
        repaired = ", ".join(result["repaired"])
        click.echo(
            f"{result['station']} has joined already; "
            + (f"repaired: {repaired}" if repaired else "nothing changed")
        )
    else:
        click.echo(
            f"{result['station']} joined collaboration {result['collaboration_id']} "
            f"as {result['address']}; network {result['network']}"
        )
    if result["node_config_lacks"]:
        click.echo("add to the vantage6 node's configuration, then restart the node:")
        for line in result["node_config_lacks"]:
            click.echo(f"  {line}")
