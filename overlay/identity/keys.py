"""Keys, requests and PEM: only P-256 keys are ever accepted; fingerprints are SHA-256 of DER."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from overlay.errors import IdentityError

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    """A fresh P-256 private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    """A private key as unencrypted PKCS#8 PEM; keep it in a file of mode 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def load_key(pem: bytes) -> Key:
    """A P-256 private key from PEM. Raises IdentityError."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise IdentityError("a private key cannot be read", why=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise IdentityError("a private key is not a P-256 key")
    return key


def cert_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def load_cert(pem: bytes) -> x509.Certificate:
    """The first certificate of a PEM text. Raises IdentityError."""
    return load_chain(pem)[0]


def load_chain(pem: bytes) -> list[x509.Certificate]:
    """All certificates of a PEM text, at least one. Raises IdentityError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise IdentityError("a certificate cannot be read", why=str(error)) from error


def fingerprint(certificate: x509.Certificate) -> str:
    """`sha256:<hex>` of the certificate's DER."""
    return "sha256:" + certificate.fingerprint(hashes.SHA256()).hex()


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """`sha256:<hex>` of the public key's SubjectPublicKeyInfo; survives a renewed certificate."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return "sha256:" + digest.finalize().hex()


def create_csr(key: Key, common_name: str) -> bytes:
    """A certificate signing request as PEM; it proves that its sender holds the key."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(common_name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def load_csr(pem: bytes) -> x509.CertificateSigningRequest:
    """A request with a valid signature by a P-256 key. Raises IdentityError."""
    try:
        csr = x509.load_pem_x509_csr(pem)
        valid = csr.is_signature_valid
        key = csr.public_key()
    except Exception as error:  # the parser's own errors are of several kinds
        raise IdentityError("a signing request cannot be read", why=str(error)) from error
    if not valid or not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise IdentityError("a signing request is not signed by a P-256 key of its own")
    return csr


def public_key(
    document: x509.CertificateSigningRequest | x509.Certificate,
) -> ec.EllipticCurvePublicKey:
    """The public key of a request or a certificate. Raises IdentityError."""
    key = document.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise IdentityError("a request or certificate is not for a P-256 key")
    return key


def subject_name(common_name: str) -> x509.Name:
    """A subject; names that matter stand in the alternative names, so a long one is cut to 64."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
