"""Wheels are made on the machine with its own pip settings, once for each set of inputs."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import overlay
from overlay.errors import MissingRequirement, UsageError
from overlay.lab.pythons import find_python
from overlay.lab.shell import call
from overlay.lab.state import CACHE

_MAKING_BUILDER = threading.Lock()
# uWSGI is compiled here and runs on the hosts: with https, and without the libraries that it would
# take up only because this machine happens to have their headers.
_UWSGI = "ssl=true;xml=false;json=false;pcre=false"


def checkout() -> Path:
    """The source tree: the lab builds its images from it.

    Raises:
        UsageError: the package was installed without its source.
    """
    root = Path(overlay.__file__).resolve().parent.parent
    if not (root / "deploy" / "lab-host" / "Dockerfile").is_file():
        raise UsageError(
            "the lab needs the source checkout, not only the installed package",
            next_step="git clone the project, then: pip install -e '.[lab]'",
        )
    return root


def digest(parts: Iterable[str | Path]) -> str:
    """Twelve hex digits over strings and over files' names and contents, whole trees included."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode() + b"\0")
            continue
        files = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file())
        for file in files:
            if "__pycache__" in file.parts:
                continue
            total.update(str(file.relative_to(part.parent)).encode() + b"\0")
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:12]


def vantage6_wheels() -> Path:
    """Directory of every wheel of the vantage6 server, node and command line (Python 3.10).

    Raises:
        MissingRequirement: no Python 3.10, no C compiler, or no OpenSSL headers.
    """
    pins = checkout() / "deploy" / "vantage6-constraints.txt"
    uwsgi = next(line for line in pins.read_text().splitlines() if line.startswith("uWSGI=="))
    return _build(
        "vantage6",
        "3.10",
        [pins, _UWSGI],
        ["--no-deps", "-r", str(pins)],
        before=lambda part: _compile_uwsgi(uwsgi, part),
    )


def _compile_uwsgi(requirement: str, target: Path) -> None:
    """Put the wheel of uWSGI into a directory, where pip prefers it to its own cached one."""
    headers = "#include <openssl/ssl.h>\n"
    if call(["gcc", "-E", "-x", "c", "-"], input=headers, check=False).returncode:
        raise MissingRequirement(
            "OpenSSL's headers are not installed",
            why="uWSGI, which runs the vantage6 server, would have no https",
            next_step="apt-get install libssl-dev (script/setup does it)",
        )
    options = ["--no-deps", "--no-cache-dir", "--no-binary=uwsgi", requirement]
    environment = {**os.environ, "UWSGI_PROFILE_OVERRIDE": _UWSGI}
    _wheel(_builder("3.10"), target, options, environment)


def extra_wheels(extra: str) -> Path:
    """Directory of the wheels that `v6-overlay[extra]` needs, without v6-overlay (Python 3.11)."""
    root = checkout()
    pins = root / "constraints.txt"
    made = _build(extra, "3.11", [requirements()], ["-c", str(pins), f"{root}[{extra}]"])
    for own in made.glob("v6_overlay-*.whl"):
        own.unlink()
    return made


def own_wheel() -> Path:
    """Directory with the wheel of this source tree as it stands."""
    return _build("own", "3.11", source(), ["--no-deps", str(checkout())])


def requirements() -> str:
    """What the packages need, as pyproject.toml and constraints.txt say it, and nothing else."""
    root = checkout()
    project = (root / "pyproject.toml").read_text()
    needed = project.partition("\ndependencies")[2].partition("[project.scripts]")[0]
    return needed + (root / "constraints.txt").read_text()


def source() -> list[Path]:
    """The inputs of the product's own wheel."""
    root = checkout()
    return [root / "overlay", root / "algorithms", root / "pyproject.toml", root / "README.md"]


def forget_old(keep: int = 2) -> None:
    """Of each kind of wheels keep the newest directories only."""
    folders = sorted((CACHE / "wheels").glob("*-*"), key=lambda p: p.stat().st_mtime, reverse=True)
    for kind in {folder.name.rpartition("-")[0] for folder in folders}:
        for folder in [f for f in folders if f.name.rpartition("-")[0] == kind][keep:]:
            shutil.rmtree(folder, ignore_errors=True)


def _build(
    name: str,
    version: str,
    inputs: Sequence[str | Path],
    arguments: list[str],
    before: Callable[[Path], None] | None = None,
) -> Path:
    target = CACHE / "wheels" / f"{name}-{digest([version, *inputs])}"
    if target.is_dir():
        return target
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if before is not None:
        before(part)
    _wheel(_builder(version), part, arguments)
    part.replace(target)
    return target


def _wheel(
    python: Path, target: Path, arguments: list[str], env: Mapping[str, str] | None = None
) -> None:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    # Old source packages need setuptools, which only an isolated build brings along.
    own = ["--use-pep517", "--find-links", str(target), "--wheel-dir", str(target)]
    call([*pip, *own, *arguments], env=env)


def _builder(version: str) -> Path:
    """An environment with pip: not every interpreter brings it."""
    home = CACHE / f"pip-{version}"
    python = home / "bin" / "python"
    with _MAKING_BUILDER:
        if not (home / "ready").exists():
            call([str(find_python(version)), "-m", "venv", "--clear", str(home)])
            (home / "ready").touch()
    return python
