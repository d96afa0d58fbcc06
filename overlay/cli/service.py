"""`v6-overlay service`: what the systemd units run; not meant to be typed."""

from __future__ import annotations

import logging

import click


@click.group(hidden=True)
def service() -> None:
    """What the systemd units run."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")


@service.command()
@click.argument("action", type=click.Choice(["install", "remove"]))
def guard(action: str) -> None:
    """Put the guard and the dead-end route in place, or take the guard away."""
    from overlay.drivers import guard as table
    from overlay.drivers import wireguard as mesh
    from overlay.errors import OverlayError

    if action == "remove":
        table.remove()
        return
    subnet, route_error = "", None
    try:
        subnet = mesh.load().subnet
        mesh.bar()
    except OverlayError as error:
        # The two barriers are independent: without one the other is still put in place.
        route_error = error
    table.install(subnet)
    if route_error is not None:
        raise route_error


@service.command()
@click.argument("action", type=click.Choice(["configure", "remove"]))
def wireguard(action: str) -> None:
    """Bring the WireGuard interface to the state of its configuration, or delete it."""
    from overlay.drivers import wireguard as mesh

    if action == "configure":
        mesh.configure()
    else:
        mesh.remove()


@service.command()
def manager() -> None:
    """Run the manager of the central host."""
    from overlay.manager.server import serve

    serve()


@service.command()
def station() -> None:
    """Run the agent of a station, with the proxy in front of the Docker socket."""
    from overlay.station.agent import serve

    serve()
