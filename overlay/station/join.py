"""Joining: all of it or nothing. Each step's reverse is noted on disk before the step begins.

An error or an interrupt undoes the steps in reverse order; a join that was killed outright is
undone by the next one, from the note.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overlay.drivers.wireguard import PORT
from overlay.errors import HostError, OverlayError, UsageError
from overlay.identity import create_csr, key_pem, new_key
from overlay.station.config import NodeApi, hook_missing, load_node, load_state
from overlay.station.grant import Grant
from overlay.station.host import Host, overlaps
from overlay.station.journal import NOTE, Journal, interruptible, uninterrupted
from overlay.station.manager_api import ManagerApi

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What the join command was given; `token` is a secret."""

    url: str
    fingerprint: str
    node_config: Path
    address: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith("https://"):
            raise UsageError("the URL must begin with https://", why="a token is sent there")
        if not self.fingerprint.lower().startswith("sha256:") or len(self.fingerprint) != 71:
            raise UsageError("--ca-fingerprint must be sha256: and 64 hex digits")


def present(host: Host) -> dict[str, Any] | None:
    """The state of a station that has joined and still is in its Swarm, else None."""
    state = load_state(host.state_directory)
    if state is None:
        return None
    swarm, node_id = host.swarm()
    return state if swarm == "active" and node_id == state.get("swarm_node_id") else None


def repair(host: Host, state: dict[str, Any], node_config: Path) -> dict[str, Any]:
    """What a second join does: nothing, or put back what is missing."""
    return {**_summary(state, node_config), "already_joined": True, "repaired": host.repair()}


def plan(host: Host, request: Request) -> dict[str, Any]:
    """Check everything that can be checked without changing anything, here or at the server."""
    node = load_node(request.node_config)
    backend = host.preflight()
    _refuse_foreign_swarm(host)
    ca = host.pinned_ca(request.url, request.fingerprint)
    with _ca_file(ca) as verify:
        host.node_token(node, _verify(node, request, verify))
    return {
        "dry_run": True,
        "server": request.url,
        "vantage6": node.url,
        "wireguard": backend,
        "steps": ["keys", "enrol", "guard", "wireguard", "swarm join", "confirm", "agent"],
        "node_config_lacks": hook_missing(request.node_config),
    }


def join(
    host: Host,
    request: Request,
    token: str,
    progress: Callable[[str], None] = lambda _: None,
    note: Path = NOTE,
) -> dict[str, Any]:
    """Make this host a station.

    Args:
        host: the host's steps.
        request: what the command was given.
        token: the one-use join token; a secret.
        progress: told one line per step.
        note: where the steps begun are noted.

    Returns: {"station", "collaboration_id", "address", "network", "node_config_lacks", ...}.

    Raises:
        FingerprintMismatch: before anything was sent.
        EnrolmentRefused: the manager's reason.
        MissingRequirement, HostError: what this host lacks. In every case nothing stays behind,
            or the message says what could not be undone.
    """
    journal = Journal(host, note)
    node = load_node(request.node_config)
    progress("checking this host")
    backend = host.preflight()
    if journal.steps:
        progress("undoing an interrupted join")
        _still_there(journal.undo())
    elif load_state(host.state_directory) is not None:
        # Joined once, and out of its Swarm since: begin anew, nothing of the old one is of use.
        for step in ("write_state", "wireguard_key", "wireguard_up", "agent_up"):
            journal.begin(step)
        _still_there(journal.undo())
    _refuse_foreign_swarm(host)
    progress("checking the server's fingerprint")
    ca = host.pinned_ca(request.url, request.fingerprint)
    with _ca_file(ca) as ca_path:
        bearer = host.node_token(node, _verify(node, request, ca_path))
    with host.manager(request.url, ca, bearer) as manager:
        try:
            with interruptible():
                state = _steps(host, request, token, manager, ca, backend, journal, progress)
                journal.done()
        except BaseException as error:
            with uninterrupted():
                failed = journal.undo()
                try:
                    manager.abort(token)
                except OverlayError as refused:
                    log.info("abort: %s", refused)  # not enrolled yet, or the manager is away
            if failed and isinstance(error, OverlayError):
                error.why += f"; and could not be undone: {'; '.join(failed)}"
                error.next_step = "run the join command again: it first undoes what is left"
            raise
    return {**_summary(state, request.node_config), "already_joined": False, "repaired": []}


def _steps(
    host: Host,
    request: Request,
    token: str,
    manager: ManagerApi,
    ca: bytes,
    backend: str,
    journal: Journal,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    progress("making keys")
    station_key, client_key = new_key(), new_key()
    journal.begin("write_state")
    keys = {"station.key": key_pem(station_key), "client.key": key_pem(client_key)}
    host.write_state({**keys, "manager-ca.pem": ca})
    journal.begin("wireguard_key")
    public_key = host.wireguard_key()

    progress("enrolling")
    body = {
        "token": token,
        "csr": create_csr(station_key, "station").decode(),
        "client_csr": create_csr(client_key, "client").decode(),
        "wireguard_public_key": public_key,
        "wireguard_port": PORT,
        "address": request.address,
    }
    answer = manager.enrol(body)
    grant = Grant.checked(answer, station_key.public_key(), client_key.public_key())
    clash = overlaps([grant.subnet, grant.network["subnet"]], host.subnets())
    if clash:
        raise HostError(
            "the overlay's subnets are in use on this host",
            why=", ".join(clash),
            next_step="ask the operator for other subnets (v6-overlay init --help)",
        )

    progress("starting guard and WireGuard")
    journal.begin("wireguard_up")
    host.wireguard_up(backend, grant.address, PORT, grant.peers)
    host.reach(grant.manager)

    progress("joining the Swarm")
    journal.begin("swarm_join")
    swarm_node = _join_swarm(host, grant, str(answer["swarm"]["worker_token"]), manager, body)

    state = {
        "version": 1,
        "url": request.url,
        "collaboration_id": grant.collaboration_id,
        "station": grant.station,
        "organization_id": grant.organization_id,
        "node_id": grant.node_id,
        "manager_api": grant.manager_api,
        "network": grant.network,
        "wireguard": {"address": grant.address, "subnet": grant.subnet},
        "swarm_node_id": swarm_node,
        "stations": [],
    }
    if not host.policy_exists():
        journal.begin("write_policy")
    host.write_policy(request.node_config.absolute())
    host.write_state(
        {
            "station.pem": grant.station_certificate,
            "client.pem": grant.client_certificate,
            "ca.pem": grant.ca,
            "state.json": (json.dumps(state, indent=2, sort_keys=True) + "\n").encode(),
        }
    )
    progress("confirming")
    manager.confirm(token, swarm_node)

    progress("starting the agent")
    journal.begin("agent_up")
    host.agent_up()
    host.healthy()
    return state


def _join_swarm(
    host: Host, grant: Grant, worker_token: str, manager: ManagerApi, body: dict[str, Any]
) -> str:
    """Join, with a new worker token as often as another station's join has rotated it away."""
    while True:
        try:
            return host.swarm_join(grant.manager, worker_token, grant.address.partition("/")[0])
        except HostError:
            again = manager.enrol(body)
            if again["swarm"]["worker_token"] == worker_token:
                raise  # the token was not the cause
            host.unswarm_join()
            worker_token = str(again["swarm"]["worker_token"])


def _refuse_foreign_swarm(host: Host) -> None:
    swarm, _ = host.swarm()
    if swarm != "inactive":
        raise HostError(
            "this host's Docker Engine is in another Swarm already",
            why=f"its Swarm state is {swarm}",
            next_step="docker swarm leave, if that Swarm is not needed; or use another host",
        )


def _still_there(failed: list[str]) -> None:
    if failed:
        raise HostError(
            "an earlier, interrupted join could not be undone",
            why="; ".join(failed),
            next_step="remove the cause and run the join command again",
        )


def _verify(node: NodeApi, request: Request, ca: str) -> str | bool:
    """The node's server is verified by the manager's CA where it is the same address."""
    return ca if node.url.startswith(request.url.rstrip("/") + "/") else True


@contextmanager
def _ca_file(ca: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(prefix="v6-overlay-ca-", suffix=".pem") as file:
        file.write(ca)
        file.flush()
        yield file.name


def _summary(state: dict[str, Any], node_config: Path) -> dict[str, Any]:
    return {
        "station": state["station"],
        "collaboration_id": state["collaboration_id"],
        "address": str(state["wireguard"]["address"]).partition("/")[0],
        "network": state["network"]["name"],
        "node_config_lacks": hook_missing(node_config),
    }
