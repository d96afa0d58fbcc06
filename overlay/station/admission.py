"""Which containers get the overlay: pure rules, default deny, every refusal with its reason."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from overlay.errors import NotAdmitted
from overlay.identity import run_hostname

#: Where a container finds its roster, identity or refusal.
MOUNT = "/run/v6-overlay"
#: Image label that marks an overlay algorithm.
LABEL = "org.v6-overlay.algorithm"
#: Port at which the peers of a run listen.
PEER_PORT = 7100
#: An unknown name would otherwise block a resolver for 20 s.
DNS_OPTIONS = ("timeout:1", "attempts:1")

# The station's own on this host, under every name it usually has.
_OURS = ("/run/v6-overlay", "/var/run/v6-overlay", "/var/lib/v6-overlay")
_RUN_ID = re.compile(r"[1-9][0-9]{0,17}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PINNED = re.compile(r"[^\s@]+@sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Create:
    """A create request that says it is a vantage6 algorithm run; nothing in it is verified."""

    name: str
    run_id: str
    image: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Image:
    """An image as the local engine knows it: id "sha256:..", digests "repo@sha256:..", labels."""

    id: str
    digests: tuple[str, ...]
    labels: Mapping[str, str]
    user: str = ""
    ports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """A vantage6 task and all its runs, {run id: organization id}, as the server tells it."""

    id: int
    image: str
    collaboration_id: int
    runs: Mapping[int, int]


@dataclass(frozen=True)
class Membership:
    """What this station knows of its collaboration: {organization id: station}."""

    collaboration_id: int
    station: str
    organization_id: int
    stations: Mapping[int, str]


def algorithm_create(name: str, body: bytes) -> Create | None:
    """The create if it is one of vantage6's algorithm containers, else None."""
    try:
        request = json.loads(body)
        labels = request["Labels"]
        if labels["vantage6-type"] != "algorithm":
            return None
        return Create(name, str(labels["run_id"]), str(request["Image"]), request)
    except (ValueError, KeyError, TypeError):
        return None


def checked_run(create: Create, network: str) -> int:
    """The run id of a create whose shape cannot make us mount or attach anything but a run's own.

    Args:
        create: the container create.
        network: the overlay's name; only the station itself attaches to it.

    Raises:
        NotAdmitted: the run id is no number, the name is not the one vantage6 gives that run, the
            container shares another's network or mounts, brings the overlay with it, is given
            what belongs to the station or to other runs, or something is mounted where we mount.
    """
    if not _RUN_ID.fullmatch(create.run_id):
        raise NotAdmitted("the container's run_id label is not a number")
    if not re.fullmatch(rf"vantage6-[A-Za-z0-9_.-]+-run-{create.run_id}", create.name):
        raise NotAdmitted(
            f"the container is not named as vantage6 names run {create.run_id}",
            why=f"its name is {create.name[:100]!r}",
        )
    host = create.body.get("HostConfig") or {}
    if not isinstance(host, dict):
        raise NotAdmitted("the container's HostConfig is not an object")
    mode = str(host.get("NetworkMode") or "")
    if mode == "host" or mode.startswith("container:"):
        raise NotAdmitted(
            "the container shares the network of another",
            why=f"its network mode is {mode[:80]}",
            next_step="switch vantage6's own VPN off in the node's configuration",
        )
    endpoints = (create.body.get("NetworkingConfig") or {}).get("EndpointsConfig") or {}
    if mode == network or network in endpoints:
        raise NotAdmitted(f"the container asks for {network} itself", why="only the station may")
    if host.get("VolumesFrom"):
        raise NotAdmitted("the container shares the mounts of another")
    for source in map(_clean, _sources(host)):
        if any(_inside(source, ours) or _inside(ours, source) for ours in _OURS):
            raise NotAdmitted(
                "the container mounts what is the station's own", why=f"it is {source}"
            )
    for clean in map(_clean, _targets(create.body, host)):
        if clean == MOUNT or clean.startswith(MOUNT + "/") or clean in ("/", "/run"):
            raise NotAdmitted(f"something is mounted at {MOUNT} already", why=f"at {clean}")
    return int(create.run_id)


def _clean(path: str) -> str:
    """A path as the engine cleans it; normpath alone would keep two slashes at the beginning."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _inside(path: str, directory: str) -> bool:
    return directory in ("/", path) or path.startswith(directory + "/")


def _sources(host: Mapping[str, Any]) -> Iterable[str]:
    """Host paths that are mounted; a volume's name is no path."""
    found = [str(bind).split(":")[0] for bind in host.get("Binds") or []]
    found += [str(mount.get("Source", "")) for mount in host.get("Mounts") or []]
    return (path for path in found if path.startswith("/"))


def _targets(body: Mapping[str, Any], host: Mapping[str, Any]) -> Iterable[str]:
    for bind in host.get("Binds") or []:
        parts = str(bind).split(":")
        yield parts[1] if len(parts) > 1 else parts[0]
    for mount in host.get("Mounts") or []:
        yield str(mount.get("Target", ""))
    yield from host.get("Tmpfs") or {}
    yield from body.get("Volumes") or {}


def is_overlay_algorithm(image: Image) -> bool:
    """Whether the image asks for the overlay."""
    return image.labels.get(LABEL) == "1"


def pinned(reference: str) -> bool:
    """Whether an allow-list entry names content: "repo@sha256:<hex>" or an image id."""
    return bool(_DIGEST.fullmatch(reference) or _PINNED.fullmatch(reference))


def check_image(image: Image, allowed: Iterable[str], shown: str) -> None:
    """Raise NotAdmitted unless the image stands on the allow-list by digest.

    Args:
        image: the image as the engine resolved it.
        allowed: entries of the allow-list; a tag among them admits nothing.
        shown: the image's name in the request, for the message.
    """
    entries = {entry for entry in allowed if pinned(entry)}
    if image.id in entries or entries.intersection(image.digests):
        return
    known = image.digests[0] if image.digests else image.id
    raise NotAdmitted(
        f"the image {shown} is not on this station's allow-list",
        why=f"its digest is {known}",
        next_step=f"the station's administrator: v6-overlay image allow {known}",
    )


def check_task(
    create: Create, run_id: int, task: Task, me: Membership, names: Mapping[int, str]
) -> None:
    """Raise NotAdmitted unless the run is this station's and all its peers are stations.

    Args:
        create: the container create.
        run_id: its run.
        task: the run's task, from the vantage6 server.
        me: this station.
        names: {organization id: name} for messages, as far as known.
    """
    if task.collaboration_id != me.collaboration_id:
        raise NotAdmitted(
            f"task {task.id} belongs to collaboration {task.collaboration_id}",
            why=f"this station is in collaboration {me.collaboration_id}",
        )
    if task.runs.get(run_id) != me.organization_id:
        raise NotAdmitted(f"run {run_id} is not a run of this station's organization")
    if create.image != task.image:
        raise NotAdmitted(
            f"the container's image is not the image of task {task.id}",
            why=f"the task says {task.image}, the container {create.image}",
        )
    if len(set(task.runs.values())) != len(task.runs):
        raise NotAdmitted(f"task {task.id} has two runs at one organization")
    absent = sorted(
        names.get(organization, f"organization {organization}")
        for organization in task.runs.values()
        if organization not in me.stations
    )
    if absent:
        raise NotAdmitted(
            f"not every organization of task {task.id} has joined the overlay",
            why=f"missing: {', '.join(absent)}",
            next_step="run the join command at these stations, or leave them out of the task",
        )


def roster(run_id: int, task: Task, me: Membership) -> dict[str, Any]:
    """The roster.json of a run whose task has been checked; members sorted by station."""
    members = [
        {
            "station": me.stations[organization],
            "organization_id": organization,
            "run_id": run,
            "hostname": run_hostname(me.stations[organization], me.collaboration_id, task.id, run),
        }
        for run, organization in task.runs.items()
    ]
    return {
        "version": 1,
        "collaboration_id": me.collaboration_id,
        "task_id": task.id,
        "run_id": run_id,
        "station": me.station,
        "port": PEER_PORT,
        "members": sorted(members, key=lambda member: str(member["station"])),
    }


def owner(create: Create, image: Image) -> tuple[int, int]:
    """The user and group (numbers) that must be able to read the run's key in the container.

    Raises:
        NotAdmitted: the image's user is a name, which only the image itself could translate.
    """
    user = str(create.body.get("User") or image.user or "0")
    if user in ("root", "root:root"):
        return 0, 0
    match = re.fullmatch(r"(\d{1,9})(?::(\d{1,9}))?", user)
    if not match:
        raise NotAdmitted(
            f"the image runs as the user {user[:40]!r}",
            why="only a numeric user tells the station who must read the run's key",
            next_step="use a numeric USER in the image",
        )
    return int(match[1]), int(match[2] or 0)


def with_overlay(create: Create, source: str) -> bytes:
    """The create's body with the run's directory bound read-only and a quick resolver."""
    host = dict(create.body.get("HostConfig") or {})
    host["Binds"] = [*(host.get("Binds") or []), f"{source}:{MOUNT}:ro"]
    options = list(host.get("DnsOptions") or [])
    chosen = {str(option).split(":")[0] for option in options}
    options += [option for option in DNS_OPTIONS if option.split(":")[0] not in chosen]
    host["DnsOptions"] = options
    return json.dumps({**create.body, "HostConfig": host}).encode()
