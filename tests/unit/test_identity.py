"""A station proves its own runs; everything else is refused, by us and by OpenSSL."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from overlay import identity
from overlay.errors import IdentityError, UsageError

NOW = datetime.now(timezone.utc).replace(microsecond=0)


class World:
    """One collaboration with stations, as the manager and the stations make it."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now
        self.ca, self.ca_key = identity.create_ca("collaboration 1", now)
        self.ca_pem = identity.cert_pem(self.ca)

    def station(self, name: str, collaboration: int = 1):
        key = identity.new_key()
        csr = identity.load_csr(identity.create_csr(key, name))
        args = (self.ca, self.ca_key, csr, name, collaboration, self.now)
        return identity.issue_station_ca(*args), key

    def run(self, station_cert, station_key, name: str, *, now=None, task=7, run=9):
        return identity.issue_run(
            station_cert,
            station_key,
            station=name,
            collaboration_id=1,
            task_id=task,
            run_id=run,
            now=now or self.now,
        )


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def handshake(tmp_path, server, client, ca_pem: bytes, name: str) -> None:
    """A real mutual TLS 1.3 handshake by OpenSSL in memory; raises ssl.SSLError."""
    contexts = []
    for purpose, (chain, key) in (
        (ssl.PROTOCOL_TLS_SERVER, server),
        (ssl.PROTOCOL_TLS_CLIENT, client),
    ):
        (tmp_path / "chain.pem").write_bytes(chain)
        (tmp_path / "key.pem").write_bytes(key)
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=ca_pem.decode())
        context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
        contexts.append(context)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        contexts[1].wrap_bio(a, b, server_hostname=name),
        contexts[0].wrap_bio(b, a, server_side=True),
    ]
    open_sides = set(sides)
    for _ in range(10):
        for side in sides:
            try:
                side.do_handshake()
                open_sides.discard(side)
            except ssl.SSLWantReadError:
                pass
    assert not open_sides


def test_names():
    assert identity.station_name("Hospital 1") == "hospital-1"
    assert identity.station_domain("hospital-1", 1) == "hospital-1.c1.v6-overlay.internal"
    assert (
        identity.run_hostname("hospital-1", 1, 12, 34)
        == "run-34.task-12.hospital-1.c1.v6-overlay.internal"
    )
    assert identity.spiffe_id("a", 2, 3, 4) == "spiffe://a.c2.v6-overlay.internal/task/3/run/4"


@given(st.text(max_size=80))
def test_station_name_is_a_dns_label_or_refused(organization):
    try:
        name = identity.station_name(organization)
    except UsageError:
        return
    assert 1 <= len(name) <= 63
    assert name.strip("-") == name
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert identity.station_name(name) == name


def test_chain_verifies_and_names_the_run(world):
    cert, key = world.station("hospital-1")
    chain, _ = world.run(cert, key, "hospital-1")
    who = identity.verify_chain(chain, world.ca_pem, NOW)
    assert (who.station, who.collaboration_id, who.task_id, who.run_id) == ("hospital-1", 1, 7, 9)
    assert who.hostname == "run-9.task-7.hospital-1.c1.v6-overlay.internal"


def test_openssl_accepts_the_right_pair(world, tmp_path):
    one, two = world.station("hospital-1"), world.station("hospital-2")
    server, client = world.run(*one, "hospital-1"), world.run(*two, "hospital-2")
    handshake(tmp_path, server, client, world.ca_pem, identity.run_hostname("hospital-1", 1, 7, 9))


@pytest.mark.parametrize("forger", ["server", "client"])
def test_station_cannot_issue_for_another_station(world, tmp_path, forger):
    one, two = world.station("hospital-1"), world.station("hospital-2")
    forged = world.run(*two, "hospital-1")  # signed by hospital-2 for hospital-1's name
    honest = world.run(*one, "hospital-1")
    with pytest.raises(IdentityError, match="its issuer is not"):
        identity.verify_chain(forged[0], world.ca_pem, NOW)
    pair = (forged, honest) if forger == "server" else (honest, forged)
    with pytest.raises(ssl.SSLError, match="permitted subtree"):
        handshake(tmp_path, *pair, world.ca_pem, identity.run_hostname("hospital-1", 1, 7, 9))


@pytest.mark.parametrize("trick", ["suffix", "common name", "intermediate"])
def test_station_cannot_slip_past_its_constraint(world, tmp_path, trick):
    """A longer name that ends alike, a name only in the subject, a CA below the station CA."""
    evil_cert, evil_key = world.station("hospital-2")
    victim = identity.run_hostname("hospital-1", 1, 7, 9)
    names = [x509.DNSName("run-9.task-7.xhospital-2.c1.v6-overlay.internal")]
    key = identity.new_key()
    builder = (
        x509.CertificateBuilder()
        .issuer_name(evil_cert.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=trick == "intermediate", path_length=None), True)
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, victim)]))
    )
    if trick == "suffix":
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
        victim = names[0].value
    forged = builder.sign(evil_key, hashes.SHA256())
    chain, leaf_key = identity.cert_pem(forged) + identity.cert_pem(evil_cert), key
    if trick == "intermediate":
        below, below_key = world.run(forged, key, "hospital-2")
        chain, leaf_key = below + identity.cert_pem(evil_cert), identity.load_key(below_key)
        victim = identity.run_hostname("hospital-2", 1, 7, 9)
    with pytest.raises(IdentityError):
        identity.verify_chain(chain, world.ca_pem, NOW)
    honest = world.run(*world.station("hospital-3"), "hospital-3")
    forged_pair = (chain, identity.key_pem(leaf_key))
    with pytest.raises(ssl.SSLError):
        handshake(tmp_path, forged_pair, honest, world.ca_pem, victim)


def test_expired_and_not_yet_valid(world, tmp_path):
    old = World(NOW - timedelta(days=2))
    cert, key = old.station("hospital-1")
    chain, leaf_key = old.run(cert, key, "hospital-1")
    with pytest.raises(IdentityError, match="not valid at"):
        identity.verify_chain(chain, old.ca_pem, NOW)
    honest = old.run(cert, key, "hospital-1", now=NOW)
    with pytest.raises(ssl.SSLError, match="expired"):
        handshake(
            tmp_path,
            (chain, leaf_key),
            honest,
            old.ca_pem,
            identity.run_hostname("hospital-1", 1, 7, 9),
        )
    chain, _ = world.run(*world.station("hospital-1"), "hospital-1")
    identity.verify_chain(chain, world.ca_pem, NOW - timedelta(minutes=4))
    with pytest.raises(IdentityError, match="not valid at"):
        identity.verify_chain(chain, world.ca_pem, NOW - timedelta(minutes=6))


def test_run_never_outlives_its_station_certificate(world):
    cert, key = world.station("hospital-1")
    late = NOW + timedelta(days=89, hours=12)
    chain, _ = world.run(cert, key, "hospital-1", now=late)
    assert identity.load_cert(chain).not_valid_after_utc == cert.not_valid_after_utc
    with pytest.raises(IdentityError, match="expired"):
        world.run(cert, key, "hospital-1", now=NOW + timedelta(days=91))


def test_other_ca_is_refused(world, tmp_path):
    other = World()
    forged = other.run(*other.station("hospital-1"), "hospital-1")
    with pytest.raises(IdentityError, match="not signed by its issuer"):
        identity.verify_chain(forged[0], world.ca_pem, NOW)
    honest = world.run(*world.station("hospital-1"), "hospital-1")
    with pytest.raises(ssl.SSLError):
        handshake(
            tmp_path, forged, honest, world.ca_pem, identity.run_hostname("hospital-1", 1, 7, 9)
        )


def test_another_collaborations_station_is_refused(world):
    cert, key = world.station("hospital-1", collaboration=2)
    chain, _ = world.run(cert, key, "hospital-1")
    with pytest.raises(IdentityError, match="its issuer is not"):
        identity.verify_chain(chain, world.ca_pem, NOW)


def test_request_must_be_signed_by_its_key():
    key = identity.new_key()
    pem = identity.create_csr(key, "x")
    der = bytearray(
        x509.load_pem_x509_csr(pem).public_bytes(identity.keys.serialization.Encoding.DER)
    )
    der[-1] ^= 1
    bad = x509.load_der_x509_csr(bytes(der)).public_bytes(identity.keys.serialization.Encoding.PEM)
    with pytest.raises(IdentityError):
        identity.load_csr(bad)


@given(st.binary(max_size=300))
def test_garbage_is_only_ever_our_error(data):
    for parse in (identity.load_cert, identity.load_csr, identity.load_key):
        with pytest.raises(IdentityError):
            parse(data)


def test_client_certificate_is_no_server_and_no_run(world):
    manager, manager_key = identity.create_ca("manager", NOW)
    key = identity.new_key()
    csr = identity.load_csr(identity.create_csr(key, "x"))
    cert = identity.issue_client(manager, manager_key, csr, "hospital-1", 1, NOW)
    usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [identity.issue.ExtendedKeyUsageOID.CLIENT_AUTH]
    assert identity.fingerprint(cert).startswith("sha256:")
