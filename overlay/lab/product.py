"""v6-overlay's own commands are run on the hosts as an operator would run them; nothing is imported."""

from __future__ import annotations

from typing import Any

from overlay.lab.engine import Engine
from overlay.lab.images import Images
from overlay.lab.state import LabState
from overlay.lab.wheels import checkout

_PROGRAM = "/opt/v6-overlay/bin/v6-overlay"
_MANAGER_STATE = "/var/lib/v6-overlay/manager"


class Product:
    """`v6-overlay init` on the central host and `v6-overlay join` on the stations."""

    wsgi_module = "overlay.manager.plugin"
    tls_files = (f"{_MANAGER_STATE}/tls.pem", f"{_MANAGER_STATE}/tls.key")

    def __init__(
        self, engine: Engine, images: Images, state: LabState, addresses: dict[str, str]
    ) -> None:
        self._engine = engine
        self._images = images
        self._state = state
        self._addresses = addresses
        self._joins: dict[str, Any] = {}
        # While the commands are being written, hosts without them are still of use.
        commands = checkout() / "overlay" / "cli"
        self.present = all((commands / f"{name}.py").exists() for name in ("init", "join"))

    def init(self) -> None:
        """Run `v6-overlay init` and keep the join tokens that it prints."""
        raise NotImplementedError

    def join(self, station: str, node_config: str) -> None:
        """Run `v6-overlay join` on a station, the token on its standard input."""
        raise NotImplementedError
