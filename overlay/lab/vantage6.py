"""The real vantage6 in the lab: an unmodified server and nodes, set up as their operators would."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from dataclasses import dataclass
from typing import Any

import requests
import yaml

from overlay.errors import HostError
from overlay.lab.hosts import Text

HTTP_PORT = 7601
HTTPS_PORT = 7443
COLLABORATION = "heart"
ELSEWHERE = "elsewhere"
OUTSIDER = "outsider"
NODE_CONFIGS = "/root/.config/vantage6/node"

_LOGGING = {
    "level": "INFO",
    "file": "vantage6.log",
    "use_console": True,
    "backup_count": 2,
    "max_size": 1024,
    "format": "%(asctime)s - %(name)-14s - %(levelname)-8s - %(message)s",
    "datefmt": "%Y-%m-%d %H:%M:%S",
    "loggers": [],
}


@dataclass(frozen=True)
class Entities:
    """Who exists in the server. Holds secrets; `repr` is never logged."""

    stations: list[str]
    api_keys: dict[str, str]
    admin_password: str
    researcher_password: str

    @property
    def organizations(self) -> dict[str, int]:
        """Organization name to id: 1 is the operator's, then the stations, then the outsider."""
        return {name: 2 + index for index, name in enumerate([*self.stations, OUTSIDER])}


def new_entities(stations: list[str]) -> Entities:
    """Fresh passwords and node keys for these stations and the outsider."""
    keys = {name: str(uuid.uuid4()) for name in [*stations, OUTSIDER]}
    return Entities(stations, keys, _password(), _password())


def server_files(entities: Entities) -> dict[str, Text]:
    """What the central host gets before it boots: the server's configuration and its fixtures."""
    config = {
        "description": "lab",
        "ip": "0.0.0.0",  # noqa: S104  (inside the lab's internal network)
        "port": HTTP_PORT,
        "api_path": "/api",
        "server_url": f"http://central:{HTTP_PORT}/api",
        "uri": "sqlite:////var/lib/vantage6/server.sqlite",
        "allow_drop_all": False,
        "jwt_secret_key": secrets.token_urlsafe(48),
        "logging": _LOGGING,
    }
    return {
        "/etc/vantage6/server.yaml": _secret(config),
        "/etc/vantage6/entities.yaml": _secret(_fixtures(entities)),
    }


def server_unit(wsgi_module: str, tls: tuple[str, str]) -> Text:
    """Unit of the server, started with the flags of vantage6's own server.sh.

    Args:
        wsgi_module: dotted name of the module that holds `app`.
        tls: paths of the certificate and key for the https port.
    """
    return Text(
        f"""\
[Unit]
Description=vantage6 server
After=network.target v6-overlay-manager.service

[Service]
Environment=HOME=/root
ExecStart=/opt/vantage6/bin/uwsgi --http :{HTTP_PORT} --https :{HTTPS_PORT},{tls[0]},{tls[1]} \\
  --gevent 1000 --http-websockets \\
  --http-chunked-input --http-keepalive --post-buffering 0 --master --callable app \\
  --disable-logging --module {wsgi_module} --pyargv /etc/vantage6/server.yaml
KillSignal=SIGQUIT
Restart=on-failure

[Install]
WantedBy=multi-user.target
""".encode()
    )


def node_files(station: str, entities: Entities, central: str, image: str) -> dict[str, Text]:
    """What a station gets: its node's configuration (with the API key, 0600) and the node's unit.

    Args:
        station: name of the host and of the vantage6 organization.
        entities: where the key is.
        central: address of the central host on the outer network.
        image: the node image.
    """
    config: dict[str, Any] = {
        "api_key": entities.api_keys[station],
        "api_path": "/api",
        "server_url": "http://central",
        "port": HTTP_PORT,
        "task_dir": f"/root/.local/share/vantage6/node/{station}",
        "databases": [
            {"label": label, "uri": f"/var/lib/v6lab/data/{label}.csv", "type": "csv"}
            for label in ("default", "vector")
        ],
        "encryption": {"enabled": False, "private_key": ""},
        "logging": _LOGGING,
        "node_extra_hosts": {"central": central},
        # The two keys that put the station's agent between the node and its Docker Engine.
        "node_extra_env": {"DOCKER_HOST": "unix:///run/v6-overlay/proxy/docker.sock"},
        "node_extra_mounts": ["/run/v6-overlay/proxy:/run/v6-overlay/proxy"],
    }
    unit = f"""\
[Unit]
Description=vantage6 node
After=docker.service v6-overlay-station.socket v6-overlay-station.service
Requires=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
Environment=HOME=/root
ExecStart=/opt/vantage6/bin/v6 node start --user --name {station} --image {image}
ExecStop=/opt/vantage6/bin/v6 node stop --user --name {station}
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""
    return {
        f"{NODE_CONFIGS}/{station}.yaml": _secret(config),
        "/etc/systemd/system/vantage6-node.service": Text(unit.encode()),
    }


class Api:
    """The few calls that the lab itself makes to the server, as its administrator."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def login(self, entities: Entities, seconds: float = 60) -> None:
        """Wait for the server, then authenticate.

        Raises:
            HostError: it did not answer, or refused.
        """
        deadline = time.monotonic() + seconds
        body = {"username": "admin", "password": entities.admin_password}
        while True:
            try:
                answer = self._session.post(f"{self._url}/token/user", json=body, timeout=10)
                if answer.ok:
                    token = answer.json()["access_token"]
                    self._session.headers["Authorization"] = f"Bearer {token}"
                    return
                why = answer.text[:300]
            except requests.RequestException as error:
                why = str(error)
            if time.monotonic() > deadline:
                raise HostError("the vantage6 server does not let the administrator in", why=why)
            time.sleep(0.2)

    def get(self, path: str, **parameters: Any) -> Any:
        """GET and decode; a refusal is a HostError."""
        return self._decode(self._session.get(f"{self._url}{path}", params=parameters, timeout=30))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST and decode; a refusal is a HostError."""
        return self._decode(self._session.post(f"{self._url}{path}", json=body, timeout=30))

    def add_researcher(self, entities: Entities, organization_id: int) -> None:
        """A user with vantage6's own role Researcher, and no more than that."""
        roles = self.get("/role", name="Researcher")["data"]
        body = {
            "username": "researcher",
            "firstname": "Rosalind",
            "lastname": "Researcher",
            "email": "researcher@example.org",
            "password": entities.researcher_password,
            "organization_id": organization_id,
            "roles": [roles[0]["id"]],
        }
        self.post("/user", body)

    def wait_online(self, stations: list[str], seconds: float) -> None:
        """Wait until these stations' nodes are online.

        Raises:
            HostError: names those that are not.
        """
        wanted = {f"{name} - {COLLABORATION} Node" for name in stations}
        deadline = time.monotonic() + seconds
        while True:
            nodes = self.get("/node", per_page=250)["data"]
            missing = wanted - {node["name"] for node in nodes if node["status"] == "online"}
            if not missing:
                return
            if time.monotonic() > deadline:
                raise HostError(
                    f"not online: {', '.join(sorted(missing))}",
                    next_step="v6-overlay lab exec STATION -- journalctl -u vantage6-node",
                )
            time.sleep(0.2)

    def _decode(self, answer: requests.Response) -> Any:
        if not answer.ok:
            raise HostError(
                f"the vantage6 server answered {answer.status_code} to {answer.request.method} "
                f"{answer.request.path_url}",
                why=answer.text[:300],
            )
        return json.loads(answer.content)


def _fixtures(entities: Entities) -> dict[str, Any]:
    names = ["operator", *entities.stations, OUTSIDER]
    empty = dict.fromkeys(("address1", "address2", "zipcode", "country", "public_key"), "")
    organizations: list[dict[str, Any]] = [
        {"name": name, "domain": f"{name}.example.org", **empty} for name in names
    ]
    organizations[0]["users"] = [
        {
            "username": "admin",
            "firstname": "Ada",
            "lastname": "Admin",
            "email": "admin@example.org",
            "password": entities.admin_password,
        }
    ]
    return {
        "organizations": organizations,
        "collaborations": [
            {
                "name": name,
                "encrypted": False,
                "participants": [
                    {"name": member, "api_key": entities.api_keys[member]} for member in members
                ],
            }
            for name, members in ((COLLABORATION, entities.stations), (ELSEWHERE, [OUTSIDER]))
        ],
    }


def _password() -> str:
    """Meets vantage6's rule: a capital, a small letter, a digit and a special character."""
    return f"Aa1-{secrets.token_urlsafe(18)}"


def _secret(document: dict[str, Any]) -> Text:
    return Text(yaml.safe_dump(document, sort_keys=False).encode(), 0o600)
