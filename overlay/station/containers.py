"""The station's questions to the Docker Engine about images and algorithm containers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from overlay.drivers.docker_engine import Engine
from overlay.errors import HostError, OverlayError
from overlay.station.admission import Image

_ALGORITHM = "vantage6-type=algorithm"


@dataclass(frozen=True)
class RunEvent:
    """Something happened to a run's container: action is "start", "die" or "destroy"."""

    action: str
    container: str
    run_id: int


class Containers:
    """Blocking calls; the agent makes them in threads. The engine may come and go."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, found at first use. Raises MissingRequirement while it is away."""
        if self._engine is None:
            self._engine = Engine()
        return self._engine

    def image(self, reference: str) -> Image | None:
        """An image by any name or id; None where the engine does not have it."""
        try:
            raw = self.engine.client.images.get(reference).attrs
        except ImageNotFound:
            return None
        except (DockerException, requests.RequestException) as error:
            raise _away("inspect an image", error) from error
        config = raw.get("Config") or {}
        ports = [str(port).partition("/")[0] for port in config.get("ExposedPorts") or {}]
        return Image(
            id=raw["Id"],
            digests=tuple(raw.get("RepoDigests") or ()),
            labels=dict(config.get("Labels") or {}),
            user=config.get("User") or "",
            ports=tuple(int(port) for port in ports if port.isdigit()),
        )

    def inspect(self, container: str) -> dict[str, Any]:
        """A container's attributes. Raises HostError, also when there is none such."""
        try:
            return dict(self.engine.client.api.inspect_container(container))
        except (DockerException, requests.RequestException) as error:
            raise _away("inspect a container", error) from error

    def connect(self, container: str, network: str, alias: str) -> None:
        """Attach a container to the overlay under its run's host name."""
        self.engine.connect(container, network, [alias])

    def remove(self, container: str) -> None:
        """Remove a container and its anonymous volumes; an absent one is ignored."""
        try:
            self.engine.client.api.remove_container(container, force=True, v=True)
        except NotFound:
            return
        except (DockerException, requests.RequestException) as error:
            raise _away("remove a container", error) from error

    def alive(self) -> dict[int, str]:
        """{run id: container id} of algorithm containers that run or are yet to start."""
        try:
            found = self.engine.client.api.containers(all=True, filters={"label": _ALGORITHM})
        except (DockerException, requests.RequestException) as error:
            raise _away("list containers", error) from error
        return {
            int(item["Labels"]["run_id"]): item["Id"]
            for item in found
            if item["State"] not in ("exited", "dead", "removing")
            and str(item["Labels"].get("run_id", "")).isdigit()
        }

    def events(self, since: float) -> Iterator[RunEvent]:
        """What happens to algorithm containers from a time (s, Unix) on; ends with the engine."""
        filters = {"type": "container", "label": _ALGORITHM, "event": ["start", "die", "destroy"]}
        try:
            for event in self.engine.client.api.events(
                decode=True, filters=filters, since=int(since)
            ):
                attributes = event["Actor"]["Attributes"]
                if str(attributes.get("run_id", "")).isdigit():
                    yield RunEvent(event["Action"], event["Actor"]["ID"], int(attributes["run_id"]))
        except (DockerException, requests.RequestException) as error:
            raise _away("tell events", error) from error


def _away(what: str, error: Exception) -> OverlayError:
    why = error.explanation if isinstance(error, APIError) else error
    return HostError(f"the Docker Engine did not {what}", why=str(why)[:300])
