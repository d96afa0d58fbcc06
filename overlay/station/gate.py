"""The create hook: judge a container, give it network, identity and roster, or say why not.

A labelled container always finds something at /run/v6-overlay before its first instruction: what
it needs, or the reason of the refusal. Nothing admitted ever starts without its network.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from overlay.errors import HostError, NotAdmitted, OverlayError
from overlay.identity import run_hostname
from overlay.station import admission
from overlay.station.admission import Create, Image, Membership, Task
from overlay.station.config import Policy
from overlay.station.containers import Containers
from overlay.station.proxy import Change
from overlay.station.runs import Runs

log = logging.getLogger(__name__)


class Server(Protocol):
    """What the gate asks the vantage6 server, with the node's own token."""

    def task_of(self, run_id: int) -> Task:
        """The run's task with all its runs."""
        ...

    def organization_name(self, organization_id: int) -> str:
        """An organization's name."""
        ...


class Station(Protocol):
    """What the gate needs of the agent."""

    def policy(self) -> Policy:
        """The administrator's policy as it is now."""
        ...

    def membership(self) -> Membership:
        """The collaboration as far as this station knows it."""
        ...

    def refresh(self) -> Membership:
        """Ask the manager now; what is known already where it is away."""
        ...

    def network(self) -> str:
        """Name of the collaboration's overlay network."""
        ...

    def identity(self, task_id: int, run_id: int) -> dict[str, bytes]:
        """Certificate, key and CA of a run, by file name."""
        ...


class Gate:
    """Callable as the proxy's hook.

    Args:
        admitted: told (run id, image, roster is written) before an admitted container is created.
        dropped: told (run id) when no container came of an admission.
    """

    def __init__(
        self,
        station: Station,
        server: Server,
        containers: Containers,
        runs: Runs,
        admitted: Callable[[int, Image], None] | None = None,
        dropped: Callable[[int], None] | None = None,
    ) -> None:
        self.station = station
        self.server = server
        self.containers = containers
        self.runs = runs
        self.admitted = admitted
        self.dropped = dropped

    async def __call__(self, name: str, body: bytes) -> Change | None:
        """Judge one create; None leaves it alone. Raises NotAdmitted when it must not be made."""
        create = admission.algorithm_create(name, body)
        if create is None:
            return None
        image = await asyncio.to_thread(self.containers.image, create.image)
        if image is None or not admission.is_overlay_algorithm(image):
            return None
        try:
            run_id = admission.checked_run(create, self.station.network())
            await asyncio.to_thread(self._claim, run_id)
        except NotAdmitted as error:
            log.warning("refused container=%r reason=%r", name[:100], str(error))
            raise
        try:
            return await self._judged(create, run_id, image)
        except BaseException:
            await asyncio.to_thread(self._drop, run_id)
            raise

    async def _judged(self, create: Create, run_id: int, image: Image) -> Change:
        try:
            directory, task = await asyncio.to_thread(self._admit, create, run_id, image)
        except OverlayError as error:
            log.warning("refused run=%d image=%r reason=%r", run_id, create.image, str(error))
            return self._refused(create, run_id, image, error)
        hostname = self._hostname(task.id, run_id)

        async def created(container: str) -> None:
            await asyncio.to_thread(self._attach, container, run_id, image, hostname)

        async def failed() -> None:
            await asyncio.to_thread(self._drop, run_id)

        return Change(admission.with_overlay(create, str(directory)), created, failed)

    def _drop(self, run_id: int) -> None:
        self.runs.discard(run_id)
        if self.dropped is not None:
            self.dropped(run_id)

    def _claim(self, run_id: int) -> None:
        """A run has one container: a second create must not take the first one's directory."""
        holder = self.runs.container(run_id)
        if (holder is not None and self._lives(holder)) or not self.runs.begin(run_id):
            raise NotAdmitted(f"run {run_id} has its container already")

    def _lives(self, container: str) -> bool:
        try:
            state = self.containers.inspect(container)["State"]["Status"]
        except HostError:
            return False  # it is gone
        return state not in ("exited", "dead", "removing")

    def _admit(self, create: Create, run_id: int, image: Image) -> tuple[Path, Task]:
        policy = self.station.policy()
        admission.check_image(image, policy.images, create.image)
        owner = admission.owner(create, image)
        task = self.server.task_of(run_id)
        me = self.station.membership()
        if any(organization not in me.stations for organization in task.runs.values()):
            me = self.station.refresh()  # it may have joined a moment ago
        admission.check_task(create, run_id, task, me, self._names(task, me))
        files = self.station.identity(task.id, run_id)
        directory = self.runs.admit(run_id, admission.roster(run_id, task, me), files, owner)
        if self.admitted is not None:
            self.admitted(run_id, image)
        log.info(
            "admitted run=%d task=%d peers=%d image=%s", run_id, task.id, len(task.runs), image.id
        )
        return directory, task

    def _names(self, task: Task, me: Membership) -> dict[int, str]:
        names = {}
        for organization in set(task.runs.values()) - set(me.stations):
            try:
                names[organization] = self.server.organization_name(organization)
            except OverlayError:
                continue  # its number has to do
        return names

    def _hostname(self, task_id: int, run_id: int) -> str:
        me = self.station.membership()
        return run_hostname(me.station, me.collaboration_id, task_id, run_id)

    def _refused(self, create: Create, run_id: int, image: Image, error: OverlayError) -> Change:
        try:
            owner = admission.owner(create, image)
        except NotAdmitted:
            owner = (0, 0)
        directory = self.runs.refuse(run_id, error, owner)

        async def created(container: str) -> None:
            self.runs.belongs(run_id, container)

        async def failed() -> None:
            self.runs.discard(run_id)

        return Change(admission.with_overlay(create, str(directory)), created, failed)

    def _attach(self, container: str, run_id: int, image: Image, hostname: str) -> None:
        self.runs.belongs(run_id, container)
        try:
            # A tag may have moved between the look at the image and the create.
            made = str(self.containers.inspect(container)["Image"])
            if made != image.id:
                raise NotAdmitted("the image changed while the container was created")
            self.containers.connect(container, self.station.network(), hostname)
        except OverlayError as error:
            log.error("not attached run=%d reason=%r", run_id, str(error))
            self._drop(run_id)
            self.containers.remove(container)
            raise NotAdmitted(
                f"run {run_id} could not be attached to the overlay",
                why=str(error),
                station=self.station.membership().station,
            ) from error
