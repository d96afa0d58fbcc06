"""The allow-list holds digests only: a tag is resolved once, by the administrator's command."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from overlay.errors import MissingRequirement, UsageError
from overlay.station.admission import pinned
from overlay.station.config import CONFIG, load_policy, save_policy
from overlay.station.containers import Containers

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")


def allow(
    reference: str, path: Path = CONFIG, containers: Containers | None = None
) -> tuple[bool, str]:
    """Add an image; returns (whether the list changed, the entry by digest).

    Raises:
        UsageError: no image reference, or a tag that the local engine does not have.
    """
    entry = resolve(reference, containers)
    with _locked(path):
        policy = load_policy(path)
        if entry in policy.images:
            return False, entry
        save_policy(replace(policy, images=(*policy.images, entry)), path)
    return True, entry


def disallow(
    reference: str, path: Path = CONFIG, containers: Containers | None = None
) -> tuple[bool, str]:
    """Remove an image; returns (whether the list changed, the entry)."""
    with _locked(path):
        policy = load_policy(path)
        entry = reference if reference in policy.images else resolve(reference, containers)
        if entry not in policy.images:
            return False, entry
        left = tuple(item for item in policy.images if item != entry)
        save_policy(replace(policy, images=left), path)
    return True, entry


def listed(path: Path = CONFIG) -> list[str]:
    """The entries of the allow-list, sorted."""
    return sorted(load_policy(path).images)


def resolve(reference: str, containers: Containers | None = None) -> str:
    """A reference as an allow-list entry: itself if it is a digest, else the engine's digest.

    Raises:
        UsageError: it is no reference, or the engine does not have it.
    """
    if pinned(reference):
        return reference
    if not _REFERENCE.fullmatch(reference) or "@" in reference:
        raise UsageError(
            f"{reference[:100]!r} is not an image reference",
            next_step="give repo:tag, repo@sha256:<64 hex digits> or sha256:<64 hex digits>",
        )
    image = (containers or Containers()).image(reference)
    if image is None:
        raise UsageError(
            f"this host's Docker Engine has no image {reference}",
            why="a tag names no content until it is pulled",
            next_step=f"docker pull {reference}, or give the digest",
        )
    repository = re.sub(r":[^/:]*$", "", reference)
    own = [item for item in image.digests if item.startswith(f"{repository}@")]
    # An image that was never in a registry has no digest but its id.
    return own[0] if own else (image.digests or (image.id,))[0]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time; the lock stands beside the file, which is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = (path.parent / ".station.lock").open("w")
    except PermissionError as error:
        raise MissingRequirement(
            f"{path} cannot be written", why="this is not root", next_step="use sudo"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
