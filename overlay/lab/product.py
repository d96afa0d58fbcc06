"""v6-overlay's commands are run on the hosts as an operator runs them; nothing is imported."""

from __future__ import annotations

import json
import shlex

import yaml

from overlay.lab import hosts, vantage6
from overlay.lab.engine import Engine
from overlay.lab.state import LabState

_PROGRAM = "/opt/v6-overlay/bin/v6-overlay"
_MANAGER_STATE = "/var/lib/v6-overlay/manager"


class Product:
    """`v6-overlay init` on the central host and `v6-overlay join` on the stations."""

    wsgi_module = "overlay.manager.plugin"
    tls_files = (f"{_MANAGER_STATE}/tls.pem", f"{_MANAGER_STATE}/tls.key")

    def __init__(self, engine: Engine, state: LabState) -> None:
        self._engine = engine
        self._state = state
        self._joins: dict[str, tuple[str, str]] = {}

    def init(self, stations: list[str]) -> None:
        """Run `v6-overlay init` and keep the join commands and tokens that it made."""
        argv = [_PROGRAM, "init", "--format", "json", "--address", "central"]
        argv += ["--collaboration", f"{self._state.collaboration_id}={vantage6.COLLABORATION}"]
        argv += ["--vantage6-url", f"http://central:{vantage6.HTTP_PORT}/api"]
        argv += ["--enrol-url", f"https://central:{vantage6.HTTPS_PORT}"]
        argv += [word for station in stations for word in ("--station", station)]
        answer = json.loads(hosts.exec_in(self._engine, "central", argv).stdout)
        self._state.ca_fingerprint = answer["collaboration_ca_fingerprint"]
        files = [join["token_file"] for join in answer["join"]]
        read = hosts.exec_in(self._engine, "central", ["awk", "1", *files]).stdout
        for join, token in zip(answer["join"], read.split(), strict=True):
            self._joins[join["station"]] = (join["command"], token)

    def station_files(self) -> dict[str, hosts.Text]:
        """The administrator's policy as a station has it before it joins: our image, by digest."""
        repository = self._state.image.rpartition(":")[0]
        allowed = {"images": [f"{repository}@{self._state.image_digest}"]}
        return {"/etc/v6-overlay/station.yaml": hosts.Text(yaml.safe_dump(allowed).encode())}

    def join(self, station: str) -> None:
        """Run the join command on a station, its token on standard input."""
        command, token = self._joins[station]
        words = shlex.split(command)
        words[0] = _PROGRAM
        hosts.exec_in(self._engine, station, words, input=token)
