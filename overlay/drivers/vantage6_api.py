"""The vantage6 server's REST API, as much of it as the product needs.

Anything but success is a named refusal, never a default: who cannot be identified is nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any

import requests

from overlay.errors import HostError, Vantage6Refused


@dataclass(frozen=True)
class Run:
    """One run of a task; organization and node as vantage6 numbers them."""

    id: int
    task_id: int
    organization_id: int
    node_id: int
    status: str


@dataclass(frozen=True)
class RunTask:
    """The task that a run belongs to, as the server tells a node of the collaboration."""

    id: int
    image: str
    collaboration_id: int


@dataclass(frozen=True)
class NodeInfo:
    """A vantage6 node, its organization and its collaboration."""

    id: int
    name: str
    organization_id: int
    collaboration_id: int


class Vantage6Api:
    """A client for one server, with one bearer token or none yet.

    Args:
        url: up to and including the API path, for example "https://central:7443/api".
        token: a node, user or container token; a secret.
        verify: false never; the path of a CA file, or true for the system's own.
        timeout: seconds for each request.
    """

    def __init__(
        self, url: str, token: str = "", *, verify: str | bool = True, timeout: float = 10.0
    ) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._session = requests.Session()
        self._session.verify = verify
        # A proxy from the environment would see the token, and .netrc would replace it.
        self._session.trust_env = False
        self.use(token)

    def __enter__(self) -> Vantage6Api:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._session.close()

    def use(self, token: str) -> None:
        """Speak with this token from now on; "" for none."""
        self._session.headers.pop("Authorization", None)
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def node_token(self, api_key: str) -> str:
        """The node token for a node's API key, which goes to the server's token endpoint only."""
        answer = self._ask("POST", "/token/node", json={"api_key": api_key})
        return str(_field(answer, "access_token"))

    def validate_node(self) -> int:
        """The id of the node whose token this is; user and container tokens are refused."""
        return int(_field(self._ask("POST", "/token/node/validate", json={}), "node_id"))

    def node(self, node_id: int) -> NodeInfo:
        """A node by its id."""
        answer = self._ask("GET", f"/node/{node_id}")
        return NodeInfo(
            id=int(_field(answer, "id")),
            name=str(_field(answer, "name")),
            organization_id=int(_field(_field(answer, "organization"), "id")),
            collaboration_id=int(_field(_field(answer, "collaboration"), "id")),
        )

    def organization_name(self, organization_id: int) -> str:
        """An organization's name."""
        return str(_field(self._ask("GET", f"/organization/{organization_id}"), "name"))

    def may_see_collaboration(self, collaboration_id: int) -> bool:
        """Whether the token's owner may look at a collaboration; raises when it is not theirs."""
        answer = self._ask("GET", f"/collaboration/{collaboration_id}")
        return int(_field(answer, "id")) == collaboration_id

    def task_of_run(self, run_id: int) -> RunTask:
        """The task of a run."""
        task = _field(self._ask("GET", f"/run/{run_id}", params={"include": "task"}), "task")
        return RunTask(
            id=int(_field(task, "id")),
            image=str(_field(task, "image")),
            collaboration_id=int(_field(_field(task, "collaboration"), "id")),
        )

    def runs(self, task_id: int) -> list[Run]:
        """All runs of a task, over as many pages as there are, sorted by id."""
        found: list[Run] = []
        page = 1
        while True:
            params = {"task_id": task_id, "page": page, "per_page": 100}
            data = _field(self._ask("GET", "/run", params=params), "data")
            found += [_run(item, task_id) for item in data]
            if len(data) < 100:
                return sorted(found, key=lambda run: run.id)
            page += 1

    def patch_node_ip(self, node_id: int, ip: str) -> None:
        """Write the node's address in vantage6's own address book."""
        self._ask("PATCH", f"/node/{node_id}", json={"ip": ip})

    def post_port(self, run_id: int, port: int, label: str) -> None:
        """Write a run's port in vantage6's own address book."""
        self._ask("POST", "/port", json={"run_id": run_id, "port": port, "label": label})

    def delete_ports(self, run_id: int) -> None:
        """Remove a run's ports from vantage6's own address book."""
        self._ask("DELETE", "/port", params={"run_id": run_id})

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        try:
            answer = self._session.request(
                method, self.url + path, timeout=self.timeout, allow_redirects=False, **arguments
            )
        except requests.RequestException as error:
            raise HostError(
                f"the vantage6 server at {self.url} cannot be reached",
                why=type(error).__name__,
                next_step="check the URL, and that the server runs",
            ) from error
        try:
            body = answer.json()
        except ValueError:
            body = {}
        if answer.status_code not in {200, 201}:
            message = body.get("msg", "") if isinstance(body, dict) else ""
            raise Vantage6Refused(
                f"the vantage6 server refused {method} {path}",
                why=f"status {answer.status_code}: {str(message)[:300]}",
            )
        return body


def _field(body: Any, name: str) -> Any:
    """A field that must be there; what else answers with 200 is not a vantage6 server."""
    if not isinstance(body, dict) or name not in body:
        raise Vantage6Refused(f"the vantage6 server's answer has no {name!r}")
    return body[name]


def _run(item: Any, task_id: int) -> Run:
    node = _field(item, "node")
    return Run(
        id=int(_field(item, "id")),
        task_id=task_id,
        organization_id=int(_field(_field(item, "organization"), "id")),
        node_id=int(_field(node, "id")),
        status=str(_field(item, "status")),
    )
