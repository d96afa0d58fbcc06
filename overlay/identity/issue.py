"""Issuing: a station's certificate lets it sign for its own domain and for nothing else.

The station CA carries a critical name constraint, so that whatever it signs for another name is
refused by every verifier, OpenSSL included. Every certificate starts `SKEW` before it is made:
that is the clock skew between two hosts that is tolerated.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from overlay.errors import IdentityError
from overlay.identity.keys import Key, cert_pem, key_pem, new_key, public_key, subject_name
from overlay.identity.names import run_hostname, spiffe_id, station_domain

SKEW = timedelta(minutes=5)
CA_LIFE = timedelta(days=3650)
STATION_LIFE = timedelta(days=90)
RUN_LIFE = timedelta(hours=24)


def create_ca(common_name: str, now: datetime) -> tuple[x509.Certificate, Key]:
    """A self-signed root, valid 10 years, and its key."""
    key = new_key()
    builder = _builder(common_name, subject_name(common_name), key.public_key(), now, now + CA_LIFE)
    builder = _ca_extensions(builder, path_length=None)
    return _sign(builder, key.public_key(), key), key


def issue_station_ca(
    ca_cert: x509.Certificate,
    ca_key: Key,
    csr: x509.CertificateSigningRequest,
    station: str,
    collaboration_id: int,
    now: datetime,
) -> x509.Certificate:
    """A CA certificate for the station's key, valid 90 days, constrained to the station's domain.

    Only the key is taken from the request; names and extensions are the manager's.
    """
    domain = station_domain(station, collaboration_id)
    permitted = [x509.DNSName(domain), x509.UniformResourceIdentifier(domain)]
    # No name of ours is an address; without this a leaf for an address would be unconstrained.
    excluded = [
        x509.IPAddress(ipaddress.ip_network("0.0.0.0/0")),
        x509.IPAddress(ipaddress.ip_network("::/0")),
    ]
    key = public_key(csr)
    until = min(now + STATION_LIFE, ca_cert.not_valid_after_utc)
    builder = _builder(f"station {station}", ca_cert.subject, key, now, until)
    builder = _ca_extensions(builder, path_length=0)
    builder = builder.add_extension(x509.NameConstraints(permitted, excluded), critical=True)
    return _sign(builder, ca_key.public_key(), ca_key)


def issue_run(
    station_cert: x509.Certificate,
    station_key: Key,
    *,
    station: str,
    collaboration_id: int,
    task_id: int,
    run_id: int,
    now: datetime,
) -> tuple[bytes, bytes]:
    """The identity of one run: (PEM chain of leaf and station CA, PEM key), valid 24 hours.

    Raises:
        IdentityError: the station's own certificate has expired, or is for another key.
    """
    until = min(now + RUN_LIFE, station_cert.not_valid_after_utc)
    if until <= now:
        raise IdentityError("the station's certificate has expired", station=station)
    if station_cert.public_key() != station_key.public_key():
        raise IdentityError("the station's key does not belong to its certificate", station=station)
    key = new_key()
    names = [
        x509.DNSName(run_hostname(station, collaboration_id, task_id, run_id)),
        x509.UniformResourceIdentifier(spiffe_id(station, collaboration_id, task_id, run_id)),
    ]
    builder = _builder(f"run-{run_id}", station_cert.subject, key.public_key(), now, until)
    builder = _leaf_extensions(builder, names, server=True, client=True)
    leaf = _sign(builder, station_key.public_key(), station_key)
    return cert_pem(leaf) + cert_pem(station_cert), key_pem(key)


def issue_server(
    ca_cert: x509.Certificate, ca_key: Key, key: Key, names: Iterable[str], now: datetime
) -> x509.Certificate:
    """The manager's TLS certificate for host names and addresses, valid as long as its CA."""
    alternative: list[x509.GeneralName] = []
    for name in names:
        try:
            alternative.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            alternative.append(x509.DNSName(name))
    until = ca_cert.not_valid_after_utc
    builder = _builder("v6-overlay manager", ca_cert.subject, key.public_key(), now, until)
    builder = _leaf_extensions(builder, alternative, server=True, client=False)
    return _sign(builder, ca_key.public_key(), ca_key)


def issue_client(
    ca_cert: x509.Certificate,
    ca_key: Key,
    csr: x509.CertificateSigningRequest,
    station: str,
    collaboration_id: int,
    now: datetime,
) -> x509.Certificate:
    """The certificate with which a station's agent speaks to the manager, valid 90 days."""
    names = [x509.UniformResourceIdentifier(spiffe_id(station, collaboration_id))]
    until = min(now + STATION_LIFE, ca_cert.not_valid_after_utc)
    builder = _builder(f"agent of {station}", ca_cert.subject, public_key(csr), now, until)
    builder = _leaf_extensions(builder, names, server=False, client=True)
    return _sign(builder, ca_key.public_key(), ca_key)


def _builder(
    common_name: str,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject_name(common_name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, issuer_public: ec.EllipticCurvePublicKey, issuer_key: Key
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public)
    return builder.add_extension(identifier, critical=False).sign(issuer_key, hashes.SHA256())


def _ca_extensions(
    builder: x509.CertificateBuilder, path_length: int | None
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_usage(ca=True), critical=True)


def _leaf_extensions(
    builder: x509.CertificateBuilder,
    names: Sequence[x509.GeneralName],
    *,
    server: bool,
    client: bool,
) -> x509.CertificateBuilder:
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH] if server else []
    purposes += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
    return (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
