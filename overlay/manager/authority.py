"""The manager's keys: its own CA for TLS, and one CA for each collaboration; never shared."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from cryptography import x509

from overlay import identity
from overlay.drivers import files
from overlay.errors import EnrolmentRefused
from overlay.manager.settings import DIRECTORY


class Authority:
    """The certificate authorities, as files below the manager's directory."""

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self.directory = directory
        self.manager_ca = directory / "manager-ca.pem"
        self.tls_certificate = directory / "tls.pem"
        self.tls_key = directory / "tls.key"

    def collaboration_ca(self, collaboration_id: int) -> Path:
        """Where a collaboration's CA certificate is."""
        return self.directory / f"c{collaboration_id}" / "ca.pem"

    def make_manager_ca(self, now: datetime) -> None:
        """Make the manager's CA."""
        self._make("v6-overlay manager CA", self.manager_ca, now)

    def make_collaboration_ca(self, collaboration_id: int, now: datetime) -> None:
        """Make a collaboration's CA."""
        path = self.collaboration_ca(collaboration_id)
        files.private_directory(path.parent)
        self._make(f"v6-overlay collaboration {collaboration_id}", path, now)

    def make_tls(self, names: Iterable[str], now: datetime) -> None:
        """Make the manager's TLS certificate for these host names and addresses."""
        ca, ca_key = self._load(self.manager_ca)
        key = identity.new_key()
        certificate = identity.issue_server(ca, ca_key, key, names, now)
        files.write(self.tls_key, identity.key_pem(key))
        files.write(self.tls_certificate, identity.cert_pem(certificate))

    def tls_names(self) -> set[str]:
        """The names and addresses that the TLS certificate is for; empty without one."""
        if not self.tls_certificate.exists() or not self.tls_key.exists():
            return set()
        certificate = identity.load_cert(self.tls_certificate.read_bytes())
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return {str(name.value) for name in san}

    def manager_fingerprint(self) -> str:
        """The fingerprint that join commands carry."""
        return identity.fingerprint(identity.load_cert(self.manager_ca.read_bytes()))

    def collaboration_fingerprint(self, collaboration_id: int) -> str:
        """The fingerprint of a collaboration's CA."""
        path = self.collaboration_ca(collaboration_id)
        return identity.fingerprint(identity.load_cert(path.read_bytes()))

    def station_certificate(
        self,
        csr: x509.CertificateSigningRequest,
        station: str,
        collaboration_id: int,
        now: datetime,
    ) -> bytes:
        """A station CA certificate as PEM, for the key of a request."""
        ca, key = self._load(self.collaboration_ca(collaboration_id))
        certificate = identity.issue_station_ca(ca, key, csr, station, collaboration_id, now)
        return identity.cert_pem(certificate)

    def client_certificate(
        self,
        csr: x509.CertificateSigningRequest,
        station: str,
        collaboration_id: int,
        now: datetime,
    ) -> bytes:
        """The certificate with which a station's agent speaks to the manager, as PEM."""
        ca, key = self._load(self.manager_ca)
        certificate = identity.issue_client(ca, key, csr, station, collaboration_id, now)
        return identity.cert_pem(certificate)

    def _make(self, name: str, path: Path, now: datetime) -> None:
        """The key is written first: a certificate in place means that its key is, too."""
        certificate, key = identity.create_ca(name, now)
        files.write(path.with_suffix(".key"), identity.key_pem(key))
        files.write(path, identity.cert_pem(certificate))

    def _load(self, path: Path) -> tuple[x509.Certificate, identity.Key]:
        try:
            certificate = identity.load_cert(path.read_bytes())
            return certificate, identity.load_key(path.with_suffix(".key").read_bytes())
        except OSError as error:
            raise EnrolmentRefused(
                "the manager has no CA for this",
                next_step="run v6-overlay init on the central host",
            ) from error
