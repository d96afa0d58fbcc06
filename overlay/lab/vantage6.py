"""The real vantage6 in the lab: an unmodified server and nodes, set up as their operators would."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
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
ADMIN = "root"
_FIRST_PASSWORD = "root"  # noqa: S105  (vantage6's own default, replaced at once)
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


@dataclass
class Entities:
    """Who exists in the server. Holds secrets; never log it.

    Attributes:
        stations: names of the organizations that are stations of the lab.
        admin_password: of vantage6's own first user `root`, in place of its default.
        researcher_password: of the user `researcher`.
        organizations: name to id; filled in by `Api.create`.
        api_keys: node keys by organization; filled in by `Api.create`.
    """

    stations: list[str]
    admin_password: str
    researcher_password: str
    organizations: dict[str, int] = field(default_factory=dict)
    api_keys: dict[str, str] = field(default_factory=dict)


def new_entities(stations: list[str]) -> Entities:
    """Fresh passwords for a lab of these stations."""
    return Entities(stations, _password(), _password())


def server_files() -> dict[str, Text]:
    """What the central host gets before it boots: the server's configuration."""
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
    return {"/etc/vantage6/server.yaml": _secret(config)}


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
ExecStartPre=/bin/sh -c 'until [ -s {tls[0]} ] && [ -s {tls[1]} ]; do sleep 0.1; done'
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
        """Wait for the server, authenticate as its first user and replace that user's password.

        Raises:
            HostError: it did not answer, or refused.
        """
        deadline = time.monotonic() + seconds
        body = {"username": ADMIN, "password": _FIRST_PASSWORD}
        while True:
            try:
                answer = self._session.post(f"{self._url}/token/user", json=body, timeout=10)
                if answer.ok:
                    break
                why = answer.text[:300]
            except requests.RequestException as error:
                why = str(error)
            if time.monotonic() > deadline:
                raise HostError("the vantage6 server does not let the administrator in", why=why)
            time.sleep(0.2)
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        change = {"current_password": _FIRST_PASSWORD, "new_password": entities.admin_password}
        self._call("PATCH", "/password/change", change)

    def create(self, entities: Entities) -> None:
        """Make the stations' organizations, their collaboration and its nodes."""
        self._collaborate(entities, COLLABORATION, entities.stations)

    def create_others(self, entities: Entities) -> None:
        """Make what no station waits for: the collaboration elsewhere, and the researcher.

        The researcher has vantage6's own role of that name and no more.
        """
        self._collaborate(entities, ELSEWHERE, [OUTSIDER])
        roles = self.get("/role", name="Researcher")["data"]
        researcher = {
            "username": "researcher",
            "firstname": "Rosalind",
            "lastname": "Researcher",
            "email": "researcher@example.org",
            "password": entities.researcher_password,
            "organization_id": entities.organizations[entities.stations[0]],
            "roles": [roles[0]["id"]],
        }
        self._call("POST", "/user", researcher)

    def _collaborate(self, entities: Entities, name: str, members: list[str]) -> None:
        for member in members:
            made = self._call("POST", "/organization", {"name": member, "country": "NL"})
            entities.organizations[member] = made["id"]
        ids = [entities.organizations[member] for member in members]
        body = {"name": name, "organization_ids": ids, "encrypted": False}
        collaboration = self._call("POST", "/collaboration", body)["id"]
        for member in members:
            node = {
                "name": _node_name(member, name),
                "organization_id": entities.organizations[member],
                "collaboration_id": collaboration,
            }
            entities.api_keys[member] = self._call("POST", "/node", node)["api_key"]

    def get(self, path: str, **parameters: Any) -> Any:
        """GET and decode; a refusal is a HostError."""
        return self._call("GET", path, None, parameters)

    def wait_online(self, stations: list[str], seconds: float) -> None:
        """Wait until these stations' nodes are online.

        Raises:
            HostError: names those that are not.
        """
        wanted = {_node_name(name, COLLABORATION) for name in stations}
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

    def _call(self, method: str, path: str, body: Any = None, parameters: Any = None) -> Any:
        url = f"{self._url}{path}"
        answer = self._session.request(method, url, params=parameters, json=body, timeout=30)
        if not answer.ok:
            raise HostError(
                f"the vantage6 server answered {answer.status_code} to {method} {path}",
                why=answer.text[:300],
            )
        return answer.json()


def _node_name(organization: str, collaboration: str) -> str:
    return f"{organization} - {collaboration} Node"


def _password() -> str:
    """Meets vantage6's rule: a capital, a small letter, a digit and a special character."""
    return f"Aa1-{secrets.token_urlsafe(18)}"


def _secret(document: dict[str, Any]) -> Text:
    return Text(yaml.safe_dump(document, sort_keys=False).encode(), 0o600)
