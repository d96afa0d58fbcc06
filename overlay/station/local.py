"""The joined station's memory: policy, membership and keys; the manager's word is checked first."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from overlay.drivers import files
from overlay.drivers.wireguard import Peer
from overlay.errors import HostError, OverlayError
from overlay.identity import issue_run, load_cert, load_key
from overlay.station.admission import Membership
from overlay.station.config import CONFIG, STATE, Policy, load_policy, load_state, membership
from overlay.station.manager_api import ManagerApi

log = logging.getLogger(__name__)


class Local:
    """State and keys of a joined station. Raises HostError when this host has not joined."""

    def __init__(self, directory: Path = STATE, config: Path = CONFIG) -> None:
        self.directory = directory
        self.config = config
        self._lock = threading.Lock()
        state = load_state(directory)
        if state is None:
            raise HostError(
                "this host is not a station yet", next_step="run the join command of the operator"
            )
        self.state = state

    def policy(self) -> Policy:
        """The administrator's policy as it is in the file now."""
        return load_policy(self.config)

    def membership(self) -> Membership:
        """This station and the stations of its collaboration."""
        return membership(self.state)

    def network(self) -> str:
        """Name of the collaboration's overlay network."""
        return str(self.state["network"]["name"])

    def manager(self) -> ManagerApi:
        """The manager's station API, inside WireGuard, under this station's certificate."""
        return ManagerApi(
            str(self.state["manager_api"]),
            (self.directory / "manager-ca.pem").read_bytes(),
            client=(self.directory / "client.pem", self.directory / "client.key"),
        )

    def refresh(self) -> Membership:
        """Ask the manager now; what is known already where it does not answer."""
        try:
            with self.manager() as manager:
                self.update(manager.state(-1, 0))
        except OverlayError as error:
            log.warning("the manager does not answer: %s", error)
        return self.membership()

    def update(self, answer: dict[str, Any]) -> list[Peer]:
        """Take over the manager's word and return the WireGuard peers.

        Raises:
            HostError: the answer is not understood, or would cut this host off from the manager.
        """
        try:
            peers = [
                Peer(
                    str(peer["station"]),
                    str(peer["public_key"]),
                    str(peer["endpoint"] or ""),
                    str(peer["address"]).partition("/")[0],
                )
                for peer in answer["peers"]
            ]
            stations = [
                {
                    "station": str(station["station"]),
                    "organization_id": int(station["organization_id"]),
                    "node_id": int(station["node_id"]),
                }
                for station in answer["stations"]
            ]
            revision = int(answer["revision"])
        except (KeyError, TypeError, ValueError) as error:
            raise HostError("the manager's state is not understood", why=repr(error)) from error
        own = str(self.state["wireguard"]["address"]).partition("/")[0]
        manager = urlsplit(str(self.state["manager_api"])).hostname
        peers = [peer for peer in peers if peer.address != own]
        if all(peer.address != manager for peer in peers):
            raise HostError("the manager's state has no central host; it is ignored")
        with self._lock:
            if (self.state.get("revision"), self.state.get("stations")) != (revision, stations):
                self.state = {**self.state, "revision": revision, "stations": stations}
                files.write_json(self.directory / "state.json", self.state)
        return peers

    def identity(self, task_id: int, run_id: int) -> dict[str, bytes]:
        """A fresh identity for a run: identity.pem, identity.key and ca.pem, all PEM."""
        chain, key = issue_run(
            load_cert((self.directory / "station.pem").read_bytes()),
            load_key((self.directory / "station.key").read_bytes()),
            station=str(self.state["station"]),
            collaboration_id=int(self.state["collaboration_id"]),
            task_id=task_id,
            run_id=run_id,
            now=datetime.now(timezone.utc),
        )
        ca = (self.directory / "ca.pem").read_bytes()
        return {"identity.pem": chain, "identity.key": key, "ca.pem": ca}

    def verify_server(self, node_url: str) -> str | bool:
        """How the vantage6 server's TLS is verified: by the manager's CA where it serves both."""
        same = urlsplit(node_url).netloc == urlsplit(str(self.state["url"])).netloc
        return str(self.directory / "manager-ca.pem") if same else True
