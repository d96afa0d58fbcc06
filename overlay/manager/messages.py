"""What stations may send: every field is checked for shape and size before anything uses it."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from overlay import identity
from overlay.drivers.wireguard import is_public_key
from overlay.errors import EnrolmentRefused, IdentityError

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_MAX_FIELD = 8192


@dataclass(frozen=True)
class Caller:
    """A vantage6 node, as the vantage6 server vouched for it, and where it called from."""

    node_id: int
    organization_id: int
    organization: str
    collaboration_id: int
    remote_address: str = ""

    @property
    def station(self) -> str:
        """The caller's station name."""
        return identity.station_name(self.organization)

    @classmethod
    def from_json(cls, value: Any) -> Caller:
        """A caller from the plug-in's header. Raises EnrolmentRefused."""
        try:
            return cls(
                int(value["node_id"]),
                int(value["organization_id"]),
                str(value["organization"]),
                int(value["collaboration_id"]),
                str(value.get("remote_address") or ""),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise EnrolmentRefused("the caller is not identified") from error


@dataclass(frozen=True)
class EnrolRequest:
    """A checked body of `POST /enrol`."""

    token: str
    csr: x509.CertificateSigningRequest
    client_csr: x509.CertificateSigningRequest
    wireguard_public_key: str
    endpoint: str

    @classmethod
    def parse(cls, body: Any, remote_address: str) -> EnrolRequest:
        """Check a body. Raises EnrolmentRefused with the field that is wrong."""
        port = body.get("wireguard_port") if isinstance(body, dict) else None
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            raise EnrolmentRefused("wireguard_port is not a port number")
        key = text_field(body, "wireguard_public_key")
        if not is_public_key(key):
            raise EnrolmentRefused("wireguard_public_key is not a WireGuard key")
        address = body.get("address") or remote_address
        try:
            csr = identity.load_csr(text_field(body, "csr").encode())
            client_csr = identity.load_csr(text_field(body, "client_csr").encode())
        except IdentityError as error:
            raise EnrolmentRefused(error.what, why=error.why) from error
        if csr.public_key() == client_csr.public_key():
            raise EnrolmentRefused("the station's two requests are for the same key")
        return cls(text_field(body, "token"), csr, client_csr, key, _endpoint(address, port))


def text_field(body: Any, name: str) -> str:
    """A text that must be there and not be too long. Raises EnrolmentRefused."""
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not value or len(value) > _MAX_FIELD:
        raise EnrolmentRefused(f"the request has no usable {name!r}")
    return value


def _endpoint(address: Any, port: int) -> str:
    if not isinstance(address, str) or not address:
        raise EnrolmentRefused("the station's address is not known")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        if not _HOST.fullmatch(address):
            raise EnrolmentRefused("the station's address is no address or host name") from None
        return f"{address}:{port}"
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
