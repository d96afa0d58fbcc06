"""Files of ours appear whole or not at all, and a secret is never readable by others on the way."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from overlay.errors import HostError


def private_directory(path: Path) -> Path:
    """Make a directory of mode 0700, with its parents, and return it."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically; its directory must exist."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, mode: int = 0o600) -> None:
    """Replace a JSON file atomically."""
    write(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), mode)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours. Raises HostError when it is damaged or absent."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HostError(f"{path} cannot be read", why=str(error)) from error
    if not isinstance(value, dict):
        raise HostError(f"{path} does not hold a JSON object")
    return value
