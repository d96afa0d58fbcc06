"""The manager's answer to an enrolment is checked against our own keys before it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography import x509

from overlay.drivers.wireguard import Peer
from overlay.errors import EnrolmentRefused, OverlayError
from overlay.identity import load_cert, load_chain


@dataclass(frozen=True)
class Grant:
    """The manager's answer to an enrolment, checked; certificates as PEM."""

    collaboration_id: int
    station: str
    organization_id: int
    node_id: int
    ca: bytes
    station_certificate: bytes
    client_certificate: bytes
    manager_api: str
    address: str
    subnet: str
    peers: tuple[Peer, ...]
    manager: str
    network: dict[str, str]

    @classmethod
    def checked(cls, answer: dict[str, Any], station_key: Any, client_key: Any) -> Grant:
        """Check the answer against the keys we made. Raises EnrolmentRefused."""
        try:
            peers = tuple(
                Peer(
                    str(peer["station"]),
                    str(peer["public_key"]),
                    str(peer["endpoint"] or ""),
                    str(peer["address"]).partition("/")[0],
                )
                for peer in answer["wireguard"]["peers"]
            )
            grant = cls(
                collaboration_id=int(answer["collaboration_id"]),
                station=str(answer["station"]),
                organization_id=int(answer["organization_id"]),
                node_id=int(answer["node_id"]),
                ca=str(answer["ca"]).encode(),
                station_certificate=str(answer["station_certificate"]).encode(),
                client_certificate=str(answer["client_certificate"]).encode(),
                manager_api=str(answer["manager_api"]),
                address=str(answer["wireguard"]["address"]),
                subnet=str(answer["wireguard"]["subnet"]),
                peers=peers,
                manager=str(answer["swarm"]["manager"]),
                network={key: str(answer["network"][key]) for key in ("name", "subnet")},
            )
            station = load_cert(grant.station_certificate)
            client = load_chain(grant.client_certificate)[0]
            station.verify_directly_issued_by(load_cert(grant.ca))
            right = (station.public_key(), client.public_key()) == (station_key, client_key)
        except (KeyError, TypeError, ValueError, x509.InvalidVersion, OverlayError) as error:
            raise EnrolmentRefused(
                "the manager's answer is not understood", why=repr(error)[:300]
            ) from error
        except Exception as error:  # cryptography's InvalidSignature has no common base
            raise EnrolmentRefused("the station certificate is not the CA's") from error
        if not right:
            raise EnrolmentRefused("the manager's certificates are not for this station's keys")
        return grant
