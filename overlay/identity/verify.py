"""Verifying: a chain that arrives as data is accepted only in the exact shape that we issue."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from overlay.errors import IdentityError
from overlay.identity.keys import load_cert, load_chain
from overlay.identity.names import DOMAIN, run_hostname, spiffe_id, station_domain

_LEAF_NAME = re.compile(
    r"run-([1-9]\d*)\.task-([1-9]\d*)\.([a-z0-9-]{1,63})\.c([1-9]\d*)\." + re.escape(DOMAIN)
)


@dataclass(frozen=True)
class RunIdentity:
    """Who a verified run certificate says its holder is."""

    station: str
    collaboration_id: int
    task_id: int
    run_id: int
    public_key: ec.EllipticCurvePublicKey

    @property
    def hostname(self) -> str:
        """The run's DNS name, as on the roster."""
        return run_hostname(self.station, self.collaboration_id, self.task_id, self.run_id)


def verify_chain(chain_pem: bytes, ca_pem: bytes, now: datetime) -> RunIdentity:
    """Verify a run's chain against the collaboration CA and return the names of its leaf.

    Stricter than a general path builder: exactly leaf, station CA and root in the shape that this
    module issues. TLS connections rely on OpenSSL; this is for signatures that arrive as data.

    Raises:
        IdentityError: with the first thing that is wrong.
    """
    chain, root = load_chain(chain_pem), load_cert(ca_pem)
    if len(chain) != 2:
        raise IdentityError(f"a run's chain has 2 certificates, not {len(chain)}")
    leaf, station_ca = chain
    for cert, issuer, what in (
        (root, root, "collaboration CA"),
        (station_ca, root, "station certificate"),
        (leaf, station_ca, "run certificate"),
    ):
        try:
            cert.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError) as error:
            raise IdentityError(f"the {what} is not signed by its issuer") from error
        if not cert.not_valid_before_utc <= now <= cert.not_valid_after_utc:
            raise IdentityError(
                f"the {what} is not valid at {now:%Y-%m-%d %H:%M:%S} UTC",
                why=f"it is valid from {cert.not_valid_before_utc} to {cert.not_valid_after_utc}",
                next_step="compare the clocks of the hosts (5 minutes of skew are tolerated)",
            )
    try:
        return _names(leaf, station_ca, root)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise IdentityError("a certificate lacks a required extension", why=str(error)) from error


def _names(
    leaf: x509.Certificate, station_ca: x509.Certificate, root: x509.Certificate
) -> RunIdentity:
    """The leaf's names, once the shape of all three certificates holds."""
    if not root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise IdentityError("the collaboration CA is not a CA")
    basic = station_ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = station_ca.extensions.get_extension_for_class(x509.KeyUsage).value
    if not basic.ca or basic.path_length != 0 or not usage.key_cert_sign:
        raise IdentityError("the station certificate is not a CA for leaves")
    if leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
        raise IdentityError("the run certificate is a CA")
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = san.get_values_for_type(x509.DNSName)
    match = _LEAF_NAME.fullmatch(dns[0]) if len(dns) == 1 else None
    key = leaf.public_key()
    if match is None or not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("the run certificate does not name one run")
    run_id, task_id, station, collaboration = match.groups()
    identity = RunIdentity(station, int(collaboration), int(task_id), int(run_id), key)
    uri = spiffe_id(station, identity.collaboration_id, identity.task_id, identity.run_id)
    if len(list(san)) != 2 or san.get_values_for_type(x509.UniformResourceIdentifier) != [uri]:
        raise IdentityError("the run certificate's names do not agree", station=station)
    constraint = station_ca.extensions.get_extension_for_class(x509.NameConstraints)
    domain = station_domain(station, identity.collaboration_id)
    permitted = [x509.DNSName(domain), x509.UniformResourceIdentifier(domain)]
    if not constraint.critical or constraint.value.permitted_subtrees != permitted:
        raise IdentityError(
            "the run certificate names a station that its issuer is not", station=station
        )
    return identity
