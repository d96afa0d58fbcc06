"""TLS 1.3 only, both ends certified by the collaboration's CA for a run that is on the roster."""

from __future__ import annotations

import socket
import ssl
from typing import Any

from overlay.errors import NotAdmitted, PeerUnknown
from overlay.peer.roster import Member, Roster


def contexts(roster: Roster) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The (client, server) contexts of this run.

    Raises:
        NotAdmitted: the run's certificate or key cannot be used.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # No session tickets: nothing is ever resumed, every connection proves itself anew.
    server.num_tickets = 0
    for context in (client, server):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            context.load_verify_locations(roster.path / "ca.pem")
            context.load_cert_chain(roster.path / "identity.pem", roster.path / "identity.key")
        except (OSError, ssl.SSLError) as error:
            raise NotAdmitted("the run's identity cannot be used", why=str(error)) from None
    return client, server


def identify(sock: socket.socket, roster: Roster) -> Member:
    """The roster member whose certificate the other end has proved to hold.

    Station, run and task all stand in the one DNS name, so equality checks all three.

    Raises:
        PeerUnknown: the certificate is valid but names nobody on this roster.
    """
    certificate = sock.getpeercert() if isinstance(sock, ssl.SSLSocket) else None
    names = _dns_names(certificate or {})
    for member in roster.members:
        if names == [member.hostname] and member.station != roster.station:
            return member
    raise PeerUnknown("a certificate names nobody on the roster", why=", ".join(map(str, names)))


def _dns_names(certificate: dict[str, Any]) -> list[str]:
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
