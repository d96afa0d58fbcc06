"""What the station asks the vantage6 server about runs, as the node that it belongs to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from overlay.drivers.vantage6_api import Vantage6Api
from overlay.errors import Vantage6Refused
from overlay.station.admission import Task
from overlay.station.config import NodeApi

# vantage6's node tokens live for hours; a fresh one each half hour never meets their end.
TOKEN_SECONDS = 1800.0

T = TypeVar("T")


class TaskServer:
    """The vantage6 server under the node's own token, which is renewed as needed.

    Args:
        node: reads the node's server and API key; called when a token is needed.
        verify: path of a CA file, or True for the system's CAs.
    """

    def __init__(self, node: Callable[[], NodeApi], verify: str | bool = True) -> None:
        self._node = node
        self._verify = verify
        self._api: Vantage6Api | None = None
        self._until = 0.0
        self._lock = threading.Lock()

    def task_of(self, run_id: int) -> Task:
        """A run's task with all its runs. Raises Vantage6Refused or HostError."""
        return self._asked(lambda api: _task(api, run_id))

    def organization_name(self, organization_id: int) -> str:
        """An organization's name."""
        return self._asked(lambda api: api.organization_name(organization_id))

    def publish_address(self, node_id: int, ip: str) -> None:
        """Put the station's address into vantage6's address book."""
        self._asked(lambda api: api.patch_node_ip(node_id, ip))

    def publish_port(self, run_id: int, port: int, label: str) -> None:
        """Put a run's port into vantage6's address book."""
        self._asked(lambda api: api.post_port(run_id, port, label))

    def forget_ports(self, run_id: int) -> None:
        """Take a run's ports out of vantage6's address book."""
        self._asked(lambda api: api.delete_ports(run_id))

    def _asked(self, question: Callable[[Vantage6Api], T]) -> T:
        with self._lock:
            try:
                return question(self._client(renew=False))
            except Vantage6Refused:
                # The server may have changed its secret, or the node its key: once more, freshly.
                return question(self._client(renew=True))

    def _client(self, *, renew: bool) -> Vantage6Api:
        if self._api is None or renew or time.monotonic() > self._until:
            node = self._node()
            api = Vantage6Api(node.url, verify=self._verify)
            api.use(api.node_token(node.api_key))
            self._api, self._until = api, time.monotonic() + TOKEN_SECONDS
        return self._api


def _task(api: Vantage6Api, run_id: int) -> Task:
    task = api.task_of_run(run_id)
    runs = {run.id: run.organization_id for run in api.runs(task.id)}
    return Task(task.id, task.image, task.collaboration_id, runs)
