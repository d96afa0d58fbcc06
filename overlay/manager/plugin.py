"""A WSGI module in place of vantage6's own: the unmodified server plus `/api/overlay/...`.

Start the server with this file where `vantage6/server/wsgi.py` stands in its start command (for
example `uwsgi --wsgi-file .../overlay/manager/plugin.py --callable app --pyargv CONFIG`). Callers
pass vantage6's own authentication; only nodes may enrol. The plug-in holds neither Docker nor a
key: it says who called, and forwards to the manager's Unix socket. It imports nothing of ours,
so that it runs in the server's own environment (Python 3.10, gevent or not).
"""

from __future__ import annotations

import http.client
import json
import os
import sys

# The server may run under gevent without monkey-patching: a plain socket would stop all requests.
try:
    from gevent import socket
except ImportError:
    import socket

from flask import Flask, Response, g, request
from flask_jwt_extended import get_jwt, verify_jwt_in_request
from vantage6.server import run_server
from vantage6.server.resource import with_node, with_user_or_node

BASE = "/api/overlay"
SOCKET = os.environ.get("V6_OVERLAY_MANAGER_SOCKET", "/run/v6-overlay/manager.sock")
MAX_BODY = 64 * 1024
# Confirming waits up to 10 s for the Swarm node; everything else is answered at once.
TIMEOUT = 15


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to the manager's Unix socket."""

    def __init__(self) -> None:
        super().__init__("manager", timeout=TIMEOUT)

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(SOCKET)


def forward(method: str, path: str, caller: dict[str, object], body: bytes = b"") -> Response:
    """Pass a request on with what is known of its caller; headers of the caller's own do not."""
    headers = {"Content-Type": "application/json", "X-V6-Overlay-Caller": json.dumps(caller)}
    connection = _UnixConnection()
    try:
        connection.request(method, BASE + path, body, headers)
        answer = connection.getresponse()
        kind = answer.getheader("Content-Type", "application/json")
        return Response(answer.read(1024 * 1024), answer.status, content_type=kind)
    except (OSError, http.client.HTTPException):
        return refuse(
            503,
            "HostError",
            "the overlay's manager does not answer",
            why="it is not running, or this server may not use its socket",
            next_step="systemctl status v6-overlay-manager on the central host",
        )
    finally:
        connection.close()


def refuse(status: int, error: str, what: str, why: str = "", next_step: str = "") -> Response:
    """A refusal in the shape that v6-overlay's commands understand."""
    body = {"error": error, "what": what, "why": why, "next": next_step, "station": ""}
    return Response(json.dumps(body), status, content_type="application/json")


def _kind() -> str:
    """The kind of the authenticated caller: "user", "node" or "container"."""
    verify_jwt_in_request()
    return str(get_jwt().get("client_type"))


def node_request(path: str) -> Response:
    """A request that only a vantage6 node may make."""
    kind = _kind()
    if kind != "node":
        return refuse(
            403,
            "EnrolmentRefused",
            f"a {kind}'s token cannot enrol a station",
            why="only a vantage6 node's own credentials prove a station",
            next_step="run v6-overlay join with the node's configuration file",
        )
    if (request.content_length or 0) > MAX_BODY:
        return refuse(413, "UsageError", "the request is too large")
    body = request.get_data()
    answer: Response = with_node(_as_node)(path, body)
    return answer


def _as_node(path: str, body: bytes) -> Response:
    caller = {
        "node_id": g.node.id,
        "organization_id": g.node.organization_id,
        "organization": g.node.organization.name,
        "collaboration_id": g.node.collaboration_id,
        "remote_address": request.remote_addr,
    }
    return forward("POST", path, caller, body)


def collaboration_ca(collaboration_id: int) -> Response:
    """The collaboration's CA, for users and nodes of that collaboration."""
    if _kind() not in {"user", "node"}:
        return refuse(403, "EnrolmentRefused", "only users and nodes may ask for this")
    answer: Response = with_user_or_node(_as_reader)(collaboration_id)
    return answer


def _as_reader(collaboration_id: int) -> Response:
    organization = (g.user or g.node).organization
    if collaboration_id not in {item.id for item in organization.collaborations}:
        return refuse(403, "EnrolmentRefused", "this collaboration is not yours")
    return forward("GET", f"/collaboration/{collaboration_id}/ca", {})


def public(path: str) -> Response:
    """What anybody may read."""
    return forward("GET", path, {})


def extend(app: Flask) -> None:
    """Add our routes to the vantage6 server's Flask application."""
    for path in ("/health", "/manager-ca"):
        app.add_url_rule(BASE + path, f"overlay{path}", lambda path=path: public(path))
    for path in ("/enrol", "/enrol/confirm", "/enrol/abort"):
        app.add_url_rule(
            BASE + path,
            f"overlay{path}",
            lambda path=path: node_request(path),
            methods=["POST"],
        )
    app.add_url_rule(
        f"{BASE}/collaboration/<int:collaboration_id>/ca", "overlay/ca", collaboration_ca
    )


if len(sys.argv) < 2:
    raise SystemExit("the vantage6 server's configuration file is missing (uwsgi --pyargv FILE)")
server_app = run_server(sys.argv[1], system_folders=False)
app = server_app.app
extend(app)
