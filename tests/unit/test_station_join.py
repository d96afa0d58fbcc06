"""Join is all or nothing: every step's failure undoes the steps before it, last first."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from overlay import identity
from overlay.errors import EnrolmentRefused, FingerprintMismatch, HostError, UsageError
from overlay.station import join as joining
from overlay.station.host import overlaps
from overlay.station.join import Journal, Request

NOW = datetime.now(timezone.utc)
CA, CA_KEY = identity.create_ca("c1", NOW)
MANAGER_CA, MANAGER_KEY = identity.create_ca("manager", NOW)
FINGERPRINT = identity.fingerprint(MANAGER_CA)


class FakeHost:
    """Records every step; fails at the one it is told to."""

    def __init__(self, directory: Path, fail: str = "", error: BaseException | None = None) -> None:
        self.state_directory = directory
        self.fail = fail
        self.error = error or HostError(f"{fail} failed")
        self.did: list[str] = []
        self.in_swarm = False
        self.used = ["192.168.0.0/24"]
        self.answer: dict[str, Any] = {}

    def _do(self, step: str) -> None:
        self.did.append(step)
        if step == self.fail:
            raise self.error

    def preflight(self) -> str:
        self._do("preflight")
        return "userspace"

    def swarm(self) -> tuple[str, str]:
        return ("active", "node-1") if self.in_swarm else ("inactive", "")

    def subnets(self) -> list[str]:
        return self.used

    def node_token(self, node: Any, verify: Any) -> str:
        self._do("node_token")
        return "node-token"

    def pinned_ca(self, url: str, fingerprint: str) -> bytes:
        self._do("pinned_ca")
        return identity.cert_pem(MANAGER_CA)

    def manager(self, url: str, ca: bytes, bearer: str) -> FakeHost:
        assert bearer == "node-token"
        return self

    def __enter__(self) -> FakeHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.did.append("close")

    def enrol(self, body: dict[str, Any]) -> dict[str, Any]:
        self._do("enrol")
        csr = identity.load_csr(body["csr"].encode())
        client = identity.load_csr(body["client_csr"].encode())
        station = identity.issue_station_ca(CA, CA_KEY, csr, "hospital-1", 1, NOW)
        leaf = identity.issue_client(MANAGER_CA, MANAGER_KEY, client, "hospital-1", 1, NOW)
        return {
            "collaboration_id": 1,
            "station": "hospital-1",
            "organization_id": 2,
            "node_id": 1,
            "ca": identity.cert_pem(CA).decode(),
            "station_certificate": identity.cert_pem(station).decode(),
            "client_certificate": identity.cert_pem(leaf).decode(),
            "manager_api": "https://10.77.0.1:7603",
            "wireguard": {
                "address": "10.77.0.2/16",
                "subnet": "10.77.0.0/16",
                "port": 51820,
                "peers": [
                    {
                        "station": "central",
                        "public_key": "k",
                        "endpoint": "c:51820",
                        "address": "10.77.0.1",
                    }
                ],
            },
            "swarm": {"manager": "10.77.0.1:2377", "worker_token": "SWMTKN"},
            "network": {"name": "v6-overlay-c1", "subnet": "10.78.0.0/24"},
            **self.answer,
        }

    def confirm(self, token: str, node: str) -> None:
        self._do("confirm")

    def abort(self, token: str) -> None:
        self.did.append("abort")

    def write_state(self, content: dict[str, bytes]) -> None:
        self._do("write_state")

    def wireguard_key(self) -> str:
        self._do("wireguard_key")
        return "public"

    def wireguard_up(self, *_: object) -> None:
        self._do("wireguard_up")

    def reach(self, manager: str) -> None:
        self._do("reach")

    def swarm_join(self, manager: str, token: str, address: str) -> str:
        assert (manager, token, address) == ("10.77.0.1:2377", "SWMTKN", "10.77.0.2")
        self._do("swarm_join")
        return "node-1"

    def policy_exists(self) -> bool:
        return False

    def write_policy(self, node_config: Path) -> None:
        self._do("write_policy")

    def agent_up(self) -> None:
        self._do("agent_up")

    def healthy(self) -> None:
        self._do("healthy")

    def repair(self) -> list[str]:
        return ["guard rules"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("un"):
            return lambda: self.did.append(name)
        raise AttributeError(name)


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    config = tmp_path / "node.yaml"
    config.write_text("api_key: key\nserver_url: http://central\nport: 7601\napi_path: /api\n")
    return Request("https://central:7443", FINGERPRINT, config)


def run(host: FakeHost, request: Request, tmp_path: Path) -> dict[str, Any]:
    return joining.join(host, request, "token", note=tmp_path / "note.json")  # type: ignore[arg-type]


def test_all_steps_in_order(tmp_path: Path, request_: Request) -> None:
    host = FakeHost(tmp_path / "state")
    result = run(host, request_, tmp_path)
    order = ["pinned_ca", "node_token", "enrol", "wireguard_up", "reach", "swarm_join", "confirm"]
    assert [step for step in host.did if step in order] == order
    assert host.did[-3:] == ["agent_up", "healthy", "close"]
    assert (result["station"], result["address"]) == ("hospital-1", "10.77.0.2")
    assert len(result["node_config_lacks"]) == 2
    assert not (tmp_path / "note.json").exists()


UNDO = {
    "enrol": ["unwireguard_key", "unwrite_state"],
    "wireguard_up": ["unwireguard_up", "unwireguard_key", "unwrite_state"],
    "reach": ["unwireguard_up", "unwireguard_key", "unwrite_state"],
    "swarm_join": ["unswarm_join", "unwireguard_up", "unwireguard_key", "unwrite_state"],
    "confirm": [
        "unwrite_policy",
        "unswarm_join",
        "unwireguard_up",
        "unwireguard_key",
        "unwrite_state",
    ],
    "healthy": [
        "unagent_up",
        "unwrite_policy",
        "unswarm_join",
        "unwireguard_up",
        "unwireguard_key",
        "unwrite_state",
    ],
}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt()])
@pytest.mark.parametrize("step", list(UNDO))
def test_a_failure_undoes_everything_in_reverse(
    tmp_path: Path, request_: Request, step: str, error: BaseException | None
) -> None:
    host = FakeHost(tmp_path / "state", step, error)
    with pytest.raises(type(error) if error else HostError):
        run(host, request_, tmp_path)
    undone = [done for done in host.did if done.startswith("un")]
    assert undone == UNDO[step]
    assert "abort" in host.did
    assert not (tmp_path / "note.json").exists()


@pytest.mark.parametrize("step", ["preflight", "pinned_ca", "node_token"])
def test_nothing_is_touched_before_the_server_is_known(
    tmp_path: Path, request_: Request, step: str
) -> None:
    error = FingerprintMismatch("wrong") if step == "pinned_ca" else None
    host = FakeHost(tmp_path / "state", step, error)
    with pytest.raises((HostError, FingerprintMismatch)):
        run(host, request_, tmp_path)
    assert host.did[-1] == step  # no token sent, no abort, nothing to undo


def test_what_cannot_be_undone_is_said_and_tried_again(tmp_path: Path, request_: Request) -> None:
    host = FakeHost(tmp_path / "state", "reach")

    def broken() -> None:
        raise HostError("nft is stuck")

    host.unwireguard_up = broken  # type: ignore[attr-defined]
    with pytest.raises(HostError) as caught:
        run(host, request_, tmp_path)
    assert "nft is stuck" in caught.value.why
    assert "unwireguard_key" in host.did  # the others were undone all the same
    again = FakeHost(tmp_path / "state")
    run(again, request_, tmp_path)
    assert again.did[1] == "unwireguard_up"  # the next join begins with what was left


def test_a_killed_join_is_undone_by_the_next(tmp_path: Path, request_: Request) -> None:
    note = tmp_path / "note.json"
    journal = Journal(FakeHost(tmp_path), note)  # type: ignore[arg-type]
    for step in ("write_state", "wireguard_key", "wireguard_up", "swarm_join"):
        journal.begin(step)
    host = FakeHost(tmp_path / "state")
    run(host, request_, tmp_path)
    assert host.did[1:5] == ["unswarm_join", "unwireguard_up", "unwireguard_key", "unwrite_state"]


def test_another_swarm_is_refused(tmp_path: Path, request_: Request) -> None:
    host = FakeHost(tmp_path / "state")
    host.in_swarm = True
    with pytest.raises(HostError, match="another Swarm"):
        run(host, request_, tmp_path)
    assert host.did == ["preflight"]


def test_overlapping_subnets_are_refused(tmp_path: Path, request_: Request) -> None:
    host = FakeHost(tmp_path / "state")
    host.used = ["10.0.0.0/8"]
    with pytest.raises(HostError, match="in use"):
        run(host, request_, tmp_path)
    assert "wireguard_up" not in host.did
    assert "abort" in host.did
    assert overlaps(["10.1.0.0/16"], ["10.2.0.0/16", "::/0"]) == []


def test_a_worker_token_rotated_by_another_join_is_asked_for_again(
    tmp_path: Path, request_: Request
) -> None:
    class Racing(FakeHost):
        valid = "SWMTKN-2"

        def swarm_join(self, manager: str, token: str, address: str) -> str:
            self.did.append(f"swarm_join {token}")
            if token != self.valid:
                self.answer = {"swarm": {"manager": manager, "worker_token": self.valid}}
                raise HostError("a valid join token is necessary")
            return "node-1"

    host = Racing(tmp_path / "state")
    run(host, request_, tmp_path)
    at = host.did.index("swarm_join SWMTKN")
    assert host.did[at : at + 4] == [
        "swarm_join SWMTKN",
        "enrol",
        "unswarm_join",
        "swarm_join SWMTKN-2",
    ]


def test_certificates_for_other_keys_are_refused(tmp_path: Path, request_: Request) -> None:
    host = FakeHost(tmp_path / "state")
    other = identity.load_csr(identity.create_csr(identity.new_key(), "x"))
    wrong = identity.issue_station_ca(CA, CA_KEY, other, "hospital-1", 1, NOW)
    host.answer = {"station_certificate": identity.cert_pem(wrong).decode()}
    with pytest.raises(EnrolmentRefused):
        run(host, request_, tmp_path)
    host.answer = {"station_certificate": identity.cert_pem(MANAGER_CA).decode()}
    with pytest.raises(EnrolmentRefused):
        run(host, request_, tmp_path)


def test_a_joined_station_is_only_repaired(tmp_path: Path, request_: Request) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "state.json").write_text(
        '{"station": "hospital-1", "collaboration_id": 1, "swarm_node_id": "node-1",'
        ' "wireguard": {"address": "10.77.0.2/16"}, "network": {"name": "n"}}'
    )
    host = FakeHost(state)
    assert joining.present(host) is None  # type: ignore[arg-type]
    host.in_swarm = True
    found = joining.present(host)  # type: ignore[arg-type]
    assert found is not None
    result = joining.repair(host, found, request_.node_config)  # type: ignore[arg-type]
    assert (result["already_joined"], result["repaired"]) == (True, ["guard rules"])
    assert host.did == []


@pytest.mark.parametrize(
    ("url", "fingerprint"), [("http://central", FINGERPRINT), ("https://central", "sha256:12")]
)
def test_bad_arguments(url: str, fingerprint: str) -> None:
    with pytest.raises(UsageError):
        Request(url, fingerprint, Path("x"))
