"""A signed statement: who reads it needs only the collaboration's CA to know which run made it."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from overlay.identity import load_key
from overlay.peer.roster import Roster
from overlay.wire import canonical_json


def attest(roster: Roster, statement: dict[str, Any]) -> dict[str, Any]:
    """Sign a statement with this run's key.

    Args:
        roster: this run's roster; its directory holds the key.
        statement: public facts that JSON can hold.

    Returns:
        `statement`; `signature`, base64 of an ECDSA P-256 SHA-256 signature over
        `overlay.wire.canonical_json(statement)`; `chain`, PEM of the run's certificate and its
        station's; `ca`, PEM of the collaboration's CA (a reader compares it with his own).

    Raises:
        UsageError: JSON cannot hold the statement.
        IdentityError: the run's key cannot be read.
    """
    signed = canonical_json(statement)
    key = load_key((roster.path / "identity.key").read_bytes())
    signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return {
        "statement": statement,
        "signature": base64.b64encode(signature).decode(),
        "chain": (roster.path / "identity.pem").read_text(),
        "ca": (roster.path / "ca.pem").read_text(),
    }
