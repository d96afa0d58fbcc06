"""The pinned CA alone vouches for the manager, whatever the environment says."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from overlay import identity
from overlay.errors import HostError
from overlay.station.manager_api import ManagerApi, pinned_ca


class Manager(http.server.BaseHTTPRequestHandler):
    heard: list[str | None]
    ca: bytes

    def do_GET(self) -> None:
        self.heard.append(self.headers.get("Authorization"))
        self._answer(self.ca)

    def do_POST(self) -> None:
        self.heard.append(self.headers.get("Authorization"))
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path, list[str | None]]]:
    """A server at https://127.0.0.1, the file of its CA, and what Authorization it was sent."""
    now = datetime.now(timezone.utc)
    ca, ca_key = identity.create_ca("ca", now)
    key = identity.new_key()
    certificate = identity.issue_server(ca, ca_key, key, ["127.0.0.1"], now)
    files = {"ca.pem": identity.cert_pem(ca), "tls.pem": identity.cert_pem(certificate)}
    for name, content in {**files, "tls.key": identity.key_pem(key)}.items():
        (tmp_path / name).write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem", tmp_path / "tls.key")
    heard: list[str | None] = []
    handler = type("Handler", (Manager,), {"heard": heard, "ca": files["ca.pem"]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", tmp_path / "ca.pem", heard
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_authority_of_the_environment_does_not_replace_the_pin(
    served: tuple[str, Path, list[str | None]], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    url, ca, heard = served
    monkeypatch.setenv(variable, str(ca))
    pinned, _ = identity.create_ca("the pinned one", datetime.now(timezone.utc))
    with (
        ManagerApi(url, identity.cert_pem(pinned), bearer="secret") as manager,
        pytest.raises(HostError),
    ):
        manager.enrol({"token": "secret"})
    assert heard == []
    monkeypatch.setenv(variable, "/nowhere.pem")
    with ManagerApi(url, ca.read_bytes(), bearer="secret") as manager:
        manager.enrol({"token": "secret"})
    assert heard == ["Bearer secret"]


def test_a_password_of_the_environment_is_not_sent(
    served: tuple[str, Path, list[str | None]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, ca, heard = served
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login root password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert pinned_ca(url, identity.fingerprint(identity.load_cert(ca.read_bytes())))
    with ManagerApi(url, ca.read_bytes(), bearer="secret") as manager:
        manager.enrol({"token": "secret"})
    assert heard == [None, "Bearer secret"]
