"""The station's side of the manager's API: nothing is sent before the pinned CA has been seen."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import requests
from cryptography import x509
from urllib3.exceptions import InsecureRequestWarning

from overlay.errors import EnrolmentRefused, FingerprintMismatch, HostError, OverlayError
from overlay.identity import fingerprint

_BASE = "/api/overlay"


def pinned_ca(url: str, expected: str, timeout: float = 15) -> bytes:
    """The manager's CA certificate, PEM, if it is the one that the join command names.

    This one request is not verified: it sends nothing, and its answer is compared with the pin.

    Raises:
        FingerprintMismatch: another certificate, or none at all, was given.
        HostError: nothing answers there.
    """
    try:
        with warnings.catch_warnings(), _session() as session:
            warnings.simplefilter("ignore", InsecureRequestWarning)
            answer = session.get(
                f"{url}{_BASE}/manager-ca",
                verify=False,  # see above: compared with the pin below
                timeout=timeout,
                allow_redirects=False,
            )
    except requests.RequestException as error:
        raise HostError(
            f"{url} does not answer",
            why=str(error)[:300],
            next_step="check the address and the firewall between this host and the server",
        ) from error
    try:
        if answer.status_code != 200:
            raise ValueError(f"HTTP status {answer.status_code}")
        certificate = x509.load_pem_x509_certificate(answer.content[:65536])
        found = fingerprint(certificate)
    except ValueError as error:
        raise FingerprintMismatch(
            f"{url} did not give the manager's certificate",
            why=str(error)[:200],
            next_step="check that the URL is the one that `v6-overlay init` printed",
        ) from error
    if found != expected.strip().lower():
        raise FingerprintMismatch(
            f"the server at {url} is not the one that the join command names",
            why=f"its CA has the fingerprint {found}",
            next_step="do not go on; ask the server's operator for the join command again",
        )
    return answer.content


class ManagerApi:
    """Requests to the manager, verified with its CA alone.

    Args:
        url: base URL of the API's host, without a path.
        ca: the manager's CA, PEM.
        bearer: vantage6 node token for enrolment; a secret.
        client: files of the station's client certificate and key, for the station API.
    """

    def __init__(
        self,
        url: str,
        ca: bytes,
        *,
        bearer: str = "",
        client: tuple[Path, Path] | None = None,
    ) -> None:
        self.url = url
        self._session = _session()
        # requests wants files; a CA is public.
        self._ca = tempfile.NamedTemporaryFile(prefix="v6-overlay-ca-", suffix=".pem")  # noqa: SIM115
        self._ca.write(ca)
        self._ca.flush()
        self._session.verify = self._ca.name
        if bearer:
            self._session.headers["Authorization"] = f"Bearer {bearer}"
        if client is not None:
            self._session.cert = (str(client[0]), str(client[1]))

    def __enter__(self) -> ManagerApi:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give connections and the CA file back."""
        self._session.close()
        self._ca.close()

    def enrol(self, request: dict[str, Any]) -> dict[str, Any]:
        """Ask for admission; the answer holds the Swarm worker token, a secret."""
        return self._call("POST", "/enrol", json=request)

    def confirm(self, token: str, swarm_node_id: str) -> dict[str, Any]:
        """Tell the manager that this host is in the Swarm."""
        body = {"token": token, "swarm_node_id": swarm_node_id}
        return self._call("POST", "/enrol/confirm", json=body, timeout=60)

    def abort(self, token: str) -> None:
        """Withdraw a pending enrolment."""
        self._call("POST", "/enrol/abort", json={"token": token})

    def state(self, revision: int, wait: float) -> dict[str, Any]:
        """The collaboration as soon as it is newer than `revision`, or after `wait` s."""
        params = {"revision": revision, "wait": int(wait)}
        return self._call("GET", "/state", params=params, timeout=wait + 10)

    def _call(self, method: str, path: str, timeout: float = 30, **rest: Any) -> dict[str, Any]:
        try:
            answer = self._session.request(
                method, f"{self.url}{_BASE}{path}", timeout=timeout, allow_redirects=False, **rest
            )
        except requests.RequestException as error:
            raise HostError(
                f"the manager at {self.url} does not answer", why=str(error)[:300]
            ) from error
        try:
            value = answer.json()
        except ValueError:
            value = None
        if answer.status_code == 200 and isinstance(value, dict):
            return value
        raise _refusal(answer.status_code, value)


def _session() -> requests.Session:
    """A session that the environment cannot turn: REQUESTS_CA_BUNDLE would replace the pinned CA,
    .netrc the bearer, and inside WireGuard there is no web proxy.
    """
    session = requests.Session()
    session.trust_env = False
    return session


def _refusal(status: int, value: Any) -> OverlayError:
    if not isinstance(value, dict) or not value.get("what"):
        message = value.get("msg") if isinstance(value, dict) else None
        return EnrolmentRefused(
            "the manager refused", why=str(message or f"HTTP status {status}")[:300]
        )
    kind = HostError if status >= 500 else EnrolmentRefused
    return kind(
        str(value["what"])[:500],
        why=str(value.get("why", ""))[:500],
        next_step=str(value.get("next", ""))[:500],
        station=str(value.get("station", ""))[:63],
    )
