"""The manager process: one Unix socket and two TLS ports, each with its own surface of the API.

A TLS handshake is made by a worker thread, so that a silent client holds up nobody else.
"""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

from cheroot import wsgi
from cheroot.server import HTTPConnection
from cheroot.ssl.builtin import BuiltinSSLAdapter
from flask import Flask

from overlay.drivers import wireguard
from overlay.drivers.docker_engine import Engine
from overlay.errors import HostError, OverlayError
from overlay.manager import api, settings
from overlay.manager.authority import Authority
from overlay.manager.registry import Registry
from overlay.manager.service import Enrolment

EXPIRE_SECONDS = 5.0
# Each waiting agent holds one thread; an overlay has tens of stations, not thousands.
THREADS = {"plugin": 16, "bearer": 32, "agent": 128}

log = logging.getLogger(__name__)


class TlsConnection(HTTPConnection):
    """A connection that shakes hands in the worker thread that serves it."""

    def communicate(self) -> bool:
        """Shake hands before the first request, then serve as usual."""
        if not self.ssl_env:
            try:
                self.socket.do_handshake()
            except OSError as error:
                log.info("TLS handshake with %s failed: %s", self.remote_addr, error)
                return False
            self.ssl_env = self.server.ssl_adapter.get_environ(self.socket)
        return bool(super().communicate())  # type: ignore[no-untyped-call]


class TlsAdapter(BuiltinSSLAdapter):
    """TLS 1.3 with the manager's certificate; with client certificates of its CA if asked."""

    def __init__(self, authority: Authority, *, client_certificates: bool) -> None:
        super().__init__(str(authority.tls_certificate), str(authority.tls_key))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(authority.tls_certificate, authority.tls_key)
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(authority.manager_ca)
        self.context = context

    def wrap(self, sock: socket.socket) -> tuple[ssl.SSLSocket, dict[str, Any]]:
        """Wrap without a handshake; the connection makes it."""
        tls = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return tls, {}


class Server(wsgi.Server):
    """A server that writes to our log."""

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Log what cheroot has to say."""
        log.log(level, "%s", msg, exc_info=traceback)


class UnixServer(Server):
    """A server on a Unix socket of mode 0660 from its first moment."""

    def bind_unix_socket(self, bind_addr: str) -> socket.socket:
        """Bind under a private name and rename, so that a client never meets wrong modes."""
        path = Path(bind_addr)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f".{path.name}.new")
        staging.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(staging))
        staging.chmod(0o660)
        staging.rename(path)
        self.socket = sock
        return sock


def build(
    service: Enrolment,
    *,
    unix_path: Path = settings.SOCKET,
    bearer_address: tuple[str, int] = ("0.0.0.0", settings.TLS_PORT),  # noqa: S104
    agent_address: tuple[str, int] | None = None,
) -> list[wsgi.Server]:
    """The three servers, not yet bound."""
    agent_address = agent_address or (service.settings.wireguard_ip, settings.AGENT_PORT)
    unix = UnixServer(str(unix_path), api.plugin_app(service), numthreads=THREADS["plugin"])
    bearer = _tls(service, bearer_address, api.bearer_app(service), "bearer")
    agent = _tls(service, agent_address, api.agent_app(service), "agent")
    for server in (unix, bearer, agent):
        server.max_request_body_size = api.MAX_BODY
        server.max_request_header_size = api.MAX_BODY
        server.timeout = 10
        server.shutdown_timeout = 1
    return [unix, bearer, agent]


def serve(directory: Path = settings.DIRECTORY) -> None:
    """Run the manager until SIGTERM or SIGINT.

    Raises:
        UsageError: `init` was not run on this host.
        HostError: an address cannot be bound, for example before WireGuard is up.
    """
    config = settings.load(directory)
    registry = Registry(directory / "registry.sqlite")
    mesh = wireguard.load()
    endpoint = f"{config.address}:{mesh.port}"
    central = wireguard.Peer("central", wireguard.ensure_key(), endpoint, mesh.ip)
    service = Enrolment(
        config, registry, Authority(directory), Engine(), central, wireguard.set_peers
    )
    service.sync_mesh()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    servers = build(service)
    for server in servers:
        try:
            server.prepare()
        except OSError as error:
            raise HostError(f"cannot listen on {server.bind_addr}", why=str(error)) from error
        threading.Thread(target=server.serve, daemon=True).start()
    log.info("the manager listens on %s, port %d", settings.SOCKET, settings.TLS_PORT)
    while not stop.wait(EXPIRE_SECONDS):
        try:
            service.expire()
        except OverlayError as error:
            log.warning("%s", error)
    for server in servers:
        server.stop()
    registry.close()


def _tls(service: Enrolment, address: tuple[str, int], app: Flask, surface: str) -> wsgi.Server:
    server = Server(address, app, numthreads=THREADS[surface])
    server.ssl_adapter = TlsAdapter(service.authority, client_certificates=surface == "agent")
    server.ConnectionClass = TlsConnection
    return server
