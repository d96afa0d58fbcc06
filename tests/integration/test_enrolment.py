"""Only a node that vantage6 vouches for and that holds its own one-use token gets in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from overlay.lab import Lab

from .hosts import new_member, outsider_config, station_config, visitor

pytestmark = pytest.mark.lab

# Its life is over for every token that waits, as if the hour had passed.
AN_HOUR_LATER = """
import sqlite3
base = sqlite3.connect("/var/lib/v6-overlay/manager/registry.sqlite")
base.execute("UPDATE tokens SET expires = expires - 3700")
base.commit()
"""
FORGED = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOjF9.c2lnbmF0dXJl"


@pytest.fixture(scope="module", name="visitor")
def visiting_host(lab: Lab) -> Iterator[str]:
    with visitor(lab) as name:
        yield name


def put_config(lab: Lab, host: str, text: str) -> str:
    """Put a vantage6 node configuration with somebody's credentials on a host."""
    path = "/root/node.yaml"
    lab.exec(host, ["sh", "-c", f"umask 077; cat > {path}"], input=text)
    return path


def fresh_token(lab: Lab, station: str) -> tuple[str, str, str]:
    """A new join token for a station: (token, url, fingerprint)."""
    out = lab.exec(
        "central",
        ["v6-overlay", "token", "create", "--station", station, "--format", "json"],
    )
    answer = json.loads(out.stdout)
    token = lab.exec("central", ["cat", answer["token_file"]]).stdout.strip()
    return token, answer["url"], answer["ca_fingerprint"]


def join(
    lab: Lab, host: str, token: str, url: str, fingerprint: str, config: str
) -> tuple[int, dict[str, Any]]:
    done = lab.exec(
        host,
        [
            "v6-overlay",
            "join",
            url,
            "--ca-fingerprint",
            fingerprint,
            "--node-config",
            config,
            "--format",
            "json",
        ],
        input=token,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def assert_nothing_half_joined(lab: Lab, host: str) -> None:
    info = lab.exec(host, ["docker", "info", "-f", "{{.Swarm.LocalNodeState}}"]).stdout.strip()
    assert info == "inactive"
    assert lab.exec(host, ["ip", "link", "show", "wg-v6o"], check=False).returncode != 0
    rules = lab.exec(host, ["nft", "list", "tables"]).stdout
    assert "v6_overlay" not in rules
    left = lab.exec(
        host,
        [
            "sh",
            "-c",
            "ls /var/lib/v6-overlay/station /var/lib/v6-overlay/wireguard "
            "/etc/systemd/system/v6-overlay-* 2>/dev/null || true",
        ],
    )
    assert left.stdout.split() == []


def test_a_node_of_another_collaboration_is_refused(lab: Lab, visitor: str) -> None:
    token, url, fingerprint = fresh_token(lab, "hospital-1")
    config = put_config(lab, visitor, outsider_config(lab))
    code, answer = join(lab, visitor, token, url, fingerprint, config)
    assert (code, answer["error"]) == (1, "EnrolmentRefused")
    assert "collaboration" in json.dumps(answer)
    assert_nothing_half_joined(lab, visitor)


def test_a_token_of_another_station_is_refused(lab: Lab, visitor: str) -> None:
    token, url, fingerprint = fresh_token(lab, "hospital-1")
    config = put_config(lab, visitor, station_config(lab, "hospital-2"))
    code, answer = join(lab, visitor, token, url, fingerprint, config)
    assert (code, answer["error"]) == (1, "EnrolmentRefused")
    assert_nothing_half_joined(lab, visitor)


def test_a_forged_token_is_refused(lab: Lab, visitor: str) -> None:
    _, url, fingerprint = fresh_token(lab, "hospital-2")
    config = put_config(lab, visitor, station_config(lab, "hospital-2"))
    code, answer = join(lab, visitor, "not-a-token", url, fingerprint, config)
    assert (code, answer["error"]) == (1, "EnrolmentRefused")
    assert_nothing_half_joined(lab, visitor)


def test_an_expired_token_is_refused(lab: Lab, visitor: str) -> None:
    token, url, fingerprint = fresh_token(lab, "hospital-2")
    lab.exec("central", ["/opt/v6-overlay/bin/python", "-c", AN_HOUR_LATER])
    config = put_config(lab, visitor, station_config(lab, "hospital-2"))
    code, answer = join(lab, visitor, token, url, fingerprint, config)
    assert (code, answer["error"]) == (1, "EnrolmentRefused")
    assert "expired" in json.dumps(answer)
    assert_nothing_half_joined(lab, visitor)


def test_a_wrong_fingerprint_is_refused_before_anything_is_sent(lab: Lab, visitor: str) -> None:
    token, url, _ = fresh_token(lab, "hospital-2")
    config = put_config(lab, visitor, station_config(lab, "hospital-2"))
    code, answer = join(lab, visitor, token, url, "sha256:" + "0" * 64, config)
    assert (code, answer["error"]) == (1, "FingerprintMismatch")
    assert_nothing_half_joined(lab, visitor)


def test_a_wrong_api_key_is_refused(lab: Lab, visitor: str) -> None:
    token, url, fingerprint = fresh_token(lab, "hospital-2")
    text = station_config(lab, "hospital-2")
    key = next(line for line in text.splitlines() if line.strip().startswith("api_key"))
    forged = text.replace(key, "api_key: 11111111-2222-3333-4444-555555555555")
    config = put_config(lab, visitor, forged)
    code, answer = join(lab, visitor, token, url, fingerprint, config)
    assert code == 1
    assert answer["error"] == "Vantage6Refused"
    assert_nothing_half_joined(lab, visitor)


@pytest.mark.parametrize("port", [7443, 7602], ids=["plug-in", "own port"])
@pytest.mark.parametrize("caller", ["nobody", "forged", "user"])
def test_other_callers_are_refused(lab: Lab, caller: str, port: int) -> None:
    """Both doors, the vantage6 server's plug-in and the manager's own port, refuse alike."""
    token, _, _ = fresh_token(lab, "hospital-2")
    bearer = {"nobody": "", "forged": FORGED, "user": lab.client()._access_token}[caller]
    body = {
        "token": token,
        "csr": "",
        "client_csr": "",
        "wireguard_public_key": "",
        "wireguard_port": 51820,
        "address": None,
    }
    script = (
        "import json,ssl,sys,urllib.request,urllib.error\n"
        "ask=json.load(sys.stdin)\n"
        "ctx=ssl.create_default_context(cafile='/var/lib/v6-overlay/manager/manager-ca.pem')\n"
        "req=urllib.request.Request(ask['url'],json.dumps(ask['body']).encode(),"
        "{'Content-Type':'application/json','Authorization':'Bearer '+ask['bearer']})\n"
        "try:\n    print(urllib.request.urlopen(req,context=ctx).status)\n"
        "except urllib.error.HTTPError as e:\n    print(e.code)\n"
    )
    ask = {"url": f"https://central:{port}/api/overlay/enrol", "body": body, "bearer": bearer}
    out = lab.exec("central", ["python3", "-c", script], input=json.dumps(ask))
    assert out.stdout.strip() in {"401", "403", "422"}


def test_the_worker_token_was_rotated_and_stays_private(lab: Lab) -> None:
    """No unit, log or process argument of a host holds a Swarm token."""
    for host in lab.state.hosts:
        found = lab.exec(
            host,
            [
                "sh",
                "-c",
                "(journalctl --no-pager; cat /etc/systemd/system/v6-overlay-* ; "
                "cat /proc/[0-9]*/cmdline | tr '\\0' ' ') 2>/dev/null | grep -c SWMTK[N] || true",
            ],
        )
        assert found.stdout.strip() == "0", host


def test_init_again_changes_nothing(lab: Lab) -> None:
    """Swarm, networks, keys and stations stay as they are; so does everything in a dry run."""

    def picture() -> str:
        look = (
            "docker info -f '{{.Swarm.Cluster.ID}} {{.Swarm.Nodes}}'; docker network ls -q | sort;"
            "sha256sum /var/lib/v6-overlay/manager/*.pem /var/lib/v6-overlay/manager/c1/*"
            " /var/lib/v6-overlay/wireguard/private.key; systemctl show -p MainPID"
            " v6-overlay-manager v6-overlay-wireguard docker"
        )
        return lab.exec("central", ["sh", "-c", look]).stdout

    before = picture()
    init = ["v6-overlay", "init", "--format", "json", "--address", "central"]
    init += ["--collaboration", "1=heart", "--vantage6-url", "http://central:7601/api"]
    init += ["--enrol-url", "https://central:7443"]
    lab.exec("central", [*init, "--dry-run"])
    assert picture() == before
    answer = json.loads(lab.exec("central", init).stdout)
    assert answer["collaboration_ca_fingerprint"] == lab.state.ca_fingerprint
    assert picture() == before


@pytest.fixture
def latecomer(lab: Lab) -> Iterator[str]:
    """The node configuration of an organization that has just become a member."""
    with new_member(lab, "latecomer") as config:
        yield config


def test_a_new_member_joins_after_an_interrupted_try(
    lab: Lab, visitor: str, latecomer: str
) -> None:
    """The twin of every refusal above: the same host and command, with credentials of its own."""
    config = put_config(lab, visitor, latecomer)
    token, _, fingerprint = fresh_token(lab, "latecomer")
    words = ["v6-overlay", "join", "https://central:7602", "--ca-fingerprint", fingerprint]
    words += ["--node-config", config, "--format", "json"]
    for seconds in ("0.9", "1.6"):
        stopped = lab.exec(
            visitor, ["timeout", "-s", "INT", seconds, *words], input=token, check=False
        )
        if stopped.returncode == 0:
            break
        assert "Traceback" not in stopped.stderr
        assert_nothing_half_joined(lab, visitor)
    else:
        lab.exec(visitor, words, input=token)
    again = json.loads(lab.exec(visitor, words, input="").stdout)
    assert again["station"] == "latecomer"
    nodes = lab.exec("central", ["docker", "node", "ls", "--format", "{{.Hostname}} {{.Status}}"])
    assert f"{visitor} Ready" in nodes.stdout
