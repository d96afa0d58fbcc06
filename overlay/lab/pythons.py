"""A Python of a wanted version is found on PATH, by uv or by pyenv; none is downloaded."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from overlay.errors import MissingRequirement, OverlayError
from overlay.lab.shell import call


def find_python(version: str, *, portable: bool = False) -> Path:
    """An interpreter of this version that has `venv`.

    Args:
        version: as "3.10".
        portable: its whole tree must be copyable, so one of the system's below /usr does not do.

    Raises:
        MissingRequirement: there is none; says what to type.
    """
    for candidate in _candidates(version):
        if _fits(candidate, version, portable):
            return candidate
    raise MissingRequirement(
        f"no {'relocatable ' if portable else ''}Python {version} on this machine",
        why="looked on PATH, with uv and with pyenv",
        next_step=f"uv python install {version}   (or: pyenv install {version})",
    )


def python_home(python: Path) -> Path:
    """The directory that holds the interpreter's whole tree."""
    code = "import sys; print(sys.base_prefix)"
    return Path(call([str(python), "-c", code]).stdout.strip())


def _candidates(version: str) -> list[Path]:
    found = [Path(sys.executable)]
    on_path = shutil.which(f"python{version}")
    found += [Path(on_path)] if on_path else []
    if shutil.which("uv"):
        answer = call(["uv", "python", "find", "--no-python-downloads", version], check=False)
        found += [Path(answer.stdout.strip())] if answer.returncode == 0 else []
    roots = [os.environ.get("PYENV_ROOT", ""), str(Path.home() / ".pyenv")]
    for root in filter(None, roots):
        found += sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}"), reverse=True)
    return found


def _fits(python: Path, version: str, portable: bool) -> bool:
    code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2], sys.base_prefix)"
    try:
        found, home = call([str(python), "-c", code], timeout=30).stdout.split(maxsplit=1)
    except (OverlayError, OSError, ValueError):
        return False
    return found == version and not (portable and home.strip() == "/usr")
