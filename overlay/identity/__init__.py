"""Names, keys and certificates: a station can prove its own runs, and never another station's.

Three levels, all P-256 and ECDSA with SHA-256::

    collaboration CA (root)  ->  station CA (key made on the station)  ->  run leaf

The manager has a CA of its own for its TLS ports and for the stations' client certificates; the
two trees never mix. The clock is always an argument, an aware datetime.
"""

from overlay.identity.issue import (
    CA_LIFE,
    RUN_LIFE,
    SKEW,
    STATION_LIFE,
    create_ca,
    issue_client,
    issue_run,
    issue_server,
    issue_station_ca,
)
from overlay.identity.keys import (
    Key,
    cert_pem,
    create_csr,
    fingerprint,
    key_fingerprint,
    key_pem,
    load_cert,
    load_chain,
    load_csr,
    load_key,
    new_key,
    public_key,
)
from overlay.identity.names import (
    CENTRAL,
    DOMAIN,
    collaboration_domain,
    run_hostname,
    spiffe_id,
    station_domain,
    station_name,
)
from overlay.identity.verify import RunIdentity, verify_chain

__all__ = [
    "CA_LIFE",
    "CENTRAL",
    "DOMAIN",
    "RUN_LIFE",
    "SKEW",
    "STATION_LIFE",
    "Key",
    "RunIdentity",
    "cert_pem",
    "collaboration_domain",
    "create_ca",
    "create_csr",
    "fingerprint",
    "issue_client",
    "issue_run",
    "issue_server",
    "issue_station_ca",
    "key_fingerprint",
    "key_pem",
    "load_cert",
    "load_chain",
    "load_csr",
    "load_key",
    "new_key",
    "public_key",
    "run_hostname",
    "spiffe_id",
    "station_domain",
    "station_name",
    "verify_chain",
]
