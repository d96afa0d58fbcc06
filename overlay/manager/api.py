"""The enrolment API over HTTP: three surfaces, the same rules, and a refusal is always JSON.

Each surface knows its caller in its own way; a route that a surface does not offer is not there.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from cryptography import x509
from flask import Flask, Request, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from overlay import __version__, identity
from overlay.drivers.vantage6_api import Vantage6Api
from overlay.errors import (
    EnrolmentRefused,
    HostError,
    MissingRequirement,
    OverlayError,
    UsageError,
    Vantage6Refused,
)
from overlay.manager.messages import Caller
from overlay.manager.registry import Registry, Station
from overlay.manager.service import Enrolment

BASE = "/api/overlay"
CALLER_HEADER = "X-V6-Overlay-Caller"
MAX_BODY = 64 * 1024

Identify = Callable[[Request], Caller]
MayRead = Callable[[Request, int], None]

log = logging.getLogger(__name__)


def plugin_app(service: Enrolment) -> Flask:
    """The API for the plug-in, which has authenticated the caller; Unix socket only."""

    def caller(req: Request) -> Caller:
        try:
            return Caller.from_json(json.loads(req.headers.get(CALLER_HEADER, "")))
        except ValueError as error:
            raise EnrolmentRefused("the caller is not identified") from error

    def may_read(req: Request, collaboration_id: int) -> None:
        """The plug-in has looked; it forwards only what the caller may read."""

    return _enrolment_app(service, caller, may_read)


def bearer_app(service: Enrolment) -> Flask:
    """The API on the manager's own TLS port; the vantage6 server says who a bearer is."""
    url = service.settings.vantage6_url

    def caller(req: Request) -> Caller:
        with Vantage6Api(url, _bearer(req)) as api:
            node = api.node(api.validate_node())
            name = api.organization_name(node.organization_id)
        return Caller(
            node.id, node.organization_id, name, node.collaboration_id, req.remote_addr or ""
        )

    def may_read(req: Request, collaboration_id: int) -> None:
        with Vantage6Api(url, _bearer(req)) as api:
            api.may_see_collaboration(collaboration_id)

    return _enrolment_app(service, caller, may_read)


def agent_app(service: Enrolment) -> Flask:
    """The API for admitted stations' agents, which present their client certificate."""
    app = _public_app(service)

    @app.get(f"{BASE}/state")
    def state() -> Response:
        station = _station_of(service.registry, request.environ.get("SSL_CLIENT_CERT", ""))
        try:
            revision = int(request.args.get("revision", "0"))
            wait = float(request.args.get("wait", "0"))
        except ValueError as error:
            raise UsageError("revision and wait are numbers") from error
        return jsonify(service.state(station, revision, wait))

    return app


def _enrolment_app(service: Enrolment, caller: Identify, may_read: MayRead) -> Flask:
    app = _public_app(service)

    @app.post(f"{BASE}/enrol")
    def enrol() -> Response:
        return jsonify(service.enrol(caller(request), _body()))

    @app.post(f"{BASE}/enrol/confirm")
    def confirm() -> Response:
        return jsonify(service.confirm(caller(request), _body()))

    @app.post(f"{BASE}/enrol/abort")
    def abort() -> Response:
        return jsonify(service.abort(caller(request), _body()))

    @app.get(f"{BASE}/collaboration/<int:collaboration_id>/ca")
    def collaboration_ca(collaboration_id: int) -> Response:
        may_read(request, collaboration_id)
        path = service.authority.collaboration_ca(collaboration_id)
        if not path.exists():
            raise EnrolmentRefused(f"collaboration {collaboration_id} has no overlay here")
        return _pem(path.read_bytes())

    return app


def _public_app(service: Enrolment) -> Flask:
    app = Flask("v6-overlay-manager", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY

    @app.get(f"{BASE}/health")
    def health() -> Response:
        return jsonify({"version": __version__})

    @app.get(f"{BASE}/manager-ca")
    def manager_ca() -> Response:
        return _pem(service.authority.manager_ca.read_bytes())

    @app.errorhandler(OverlayError)
    def refused(error: OverlayError) -> tuple[Response, int]:
        return jsonify(error.as_dict()), _status(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[Response, int]:
        wrong = UsageError(f"{request.method} {request.path}: {error.name}")
        return jsonify(wrong.as_dict()), error.code or 500

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> tuple[Response, int]:
        log.exception("unexpected error")
        fault = HostError("the manager met an unexpected error", next_step="see its journal")
        return jsonify(fault.as_dict()), 500

    return app


def _status(error: OverlayError) -> int:
    if isinstance(error, EnrolmentRefused | Vantage6Refused):
        return 403
    if isinstance(error, HostError | MissingRequirement):
        return 503
    return 400


def _body() -> Any:
    return request.get_json(silent=True, force=True)


def _pem(content: bytes) -> Response:
    return Response(content, mimetype="application/x-pem-file")


def _bearer(req: Request) -> str:
    kind, _, token = req.headers.get("Authorization", "").partition(" ")
    if kind != "Bearer" or not token:
        raise EnrolmentRefused("no vantage6 token was sent")
    return token


def _station_of(registry: Registry, pem: str) -> Station:
    """The admitted station whose client key this is; TLS has verified the certificate's chain."""
    refusal = EnrolmentRefused("this certificate is no admitted station's")
    if not pem:
        raise refusal
    certificate = identity.load_cert(pem.encode())
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    names = san.get_values_for_type(x509.UniformResourceIdentifier)
    key = identity.key_fingerprint(identity.public_key(certificate))
    for station in registry.stations():
        wanted = [identity.spiffe_id(station.name, station.collaboration_id)]
        if names == wanted and station.client_key == key:
            return station
    raise refusal
