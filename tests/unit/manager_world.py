"""A manager on real files and certificates, with a Swarm and a mesh that are only lists."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from overlay import identity
from overlay.drivers.docker_engine import SwarmNode
from overlay.drivers.wireguard import Peer
from overlay.manager.authority import Authority
from overlay.manager.messages import Caller
from overlay.manager.registry import Collaboration, Registry
from overlay.manager.service import Enrolment
from overlay.manager.settings import Settings


def wireguard_key() -> str:
    raw = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return base64.b64encode(raw).decode()


class FakeSwarm:
    def __init__(self) -> None:
        self.members: list[SwarmNode] = []
        self.generation = 0
        self.removed: list[str] = []

    def nodes(self) -> list[SwarmNode]:
        return list(self.members)

    def remove_node(self, node_id: str) -> None:
        self.removed.append(node_id)
        self.members = [node for node in self.members if node.id != node_id]

    def worker_token(self) -> str:
        return f"SWMTKN-{self.generation}"

    def rotate_worker_token(self) -> None:
        self.generation += 1

    def join(self, node_id: str, address: str, status: str = "ready", role: str = "worker"):
        self.members.append(SwarmNode(node_id, "host", address, status, role))


class Candidate:
    """A station host with keys of its own, about to join."""

    def __init__(self, name: str, number: int, collaboration: int = 1) -> None:
        self.caller = Caller(100 + number, number, name, collaboration, f"192.0.2.{number}")
        self.key, self.client_key = identity.new_key(), identity.new_key()
        self.wireguard_key = wireguard_key()

    def body(self, token: str, **changes: object) -> dict[str, object]:
        return {
            "token": token,
            "csr": identity.create_csr(self.key, "x").decode(),
            "client_csr": identity.create_csr(self.client_key, "x").decode(),
            "wireguard_public_key": self.wireguard_key,
            "wireguard_port": 51820,
            "address": None,
        } | changes


class World:
    def __init__(self, directory: Path, vantage6_url: str = "http://127.0.0.1:9/api") -> None:
        self.time = datetime.now(timezone.utc).timestamp()
        self.swarm = FakeSwarm()
        self.mesh: list[Peer] = []
        self.registry = Registry(directory / "registry.sqlite")
        self.authority = Authority(directory)
        now = datetime.now(timezone.utc)
        self.authority.make_manager_ca(now)
        self.authority.make_tls(["localhost", "127.0.0.1"], now)
        for number in (1, 2):
            network = f"v6-overlay-c{number}"
            self.registry.put_collaboration(
                Collaboration(number, f"c{number}", network, f"10.9.{number}.0/24")
            )
            self.authority.make_collaboration_ca(number, now)
        settings = Settings(
            "central", vantage6_url, "https://central:7443", "10.8.0.0/16", "10.7.0.0/20"
        )
        central = Peer("central", wireguard_key(), "central:51820", "10.8.0.1")
        self.service = Enrolment(
            settings,
            self.registry,
            self.authority,
            self.swarm,
            central,
            self.set_peers,
            lambda: self.time,
        )

    def set_peers(self, peers) -> None:
        self.mesh = list(peers)

    def token(self, station: str = "hospital-1", collaboration: int = 1, life: float = 3600) -> str:
        return self.registry.new_token(collaboration, station, self.time + life)

    def admit(self, name: str, number: int, collaboration: int = 1) -> Candidate:
        candidate = Candidate(name, number, collaboration)
        token = self.token(name, collaboration)
        answer = self.service.enrol(candidate.caller, candidate.body(token))
        self.swarm.join(f"swarm-{number}", answer["wireguard"]["address"].split("/")[0])
        body = {"token": token, "swarm_node_id": f"swarm-{number}"}
        self.service.confirm(candidate.caller, body)
        return candidate
