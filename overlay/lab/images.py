"""Images are built from the checkout once; a tag is the hash of everything that went in."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from overlay import __version__
from overlay.lab import wheels
from overlay.lab.engine import Engine
from overlay.lab.pythons import find_python, python_home
from overlay.lab.shell import Progress, call, in_parallel
from overlay.lab.state import CACHE

_SUITE = "bookworm"
REGISTRY = "central:5000"


@dataclass(frozen=True)
class Images:
    """Full names of the images, on the outer engine and (node, sums) in the lab's registry."""

    host: str
    node: str
    sums_deps: str
    sums: str


def ensure_images(engine: Engine, progress: Progress) -> Images:
    """Build what the cache lacks.

    Raises:
        MissingRequirement: no Python 3.10, no mmdebstrap.
        HostError: a build failed; the message ends with its last output.
    """
    CACHE.mkdir(parents=True, exist_ok=True, mode=0o755)
    deploy = wheels.checkout() / "deploy"
    builder = _Builder(engine, progress)
    small_key = wheels.digest([_SUITE, deploy / "base"])
    large_key = wheels.digest([_SUITE, deploy / "lab-host" / "packages.txt"])
    needed = wheels.requirements()
    own = wheels.digest(wheels.source())
    node_key = wheels.digest([small_key, deploy / "node", deploy / "vantage6-constraints.txt"])
    host_key = wheels.digest([large_key, node_key, deploy / "lab-host", needed])
    sums_key = wheels.digest([small_key, deploy / "algorithm", needed])
    small = f"v6-overlay-lab/base:{small_key}"
    large = f"v6-overlay-lab/host-base:{large_key}"
    images = Images(
        host=f"v6-overlay-lab/host:{host_key}-{own}",
        node=f"{REGISTRY}/v6-overlay/node:4.15.2-{node_key}",
        sums_deps=f"{REGISTRY}/v6-overlay/sums:deps-{sums_key}",
        sums=f"{REGISTRY}/v6-overlay/sums:{__version__}-{sums_key}-{own}",
    )
    if all(builder.has(name) for name in (images.host, images.node, images.sums)):
        return images
    if not builder.has(images.node):
        find_python("3.10", portable=True)  # before minutes of work, not after
    _, _, python_wheels, host_wheels, sums_wheels, own_wheel = in_parallel(
        [
            lambda: builder.bootstrap(small, deploy / "base" / "packages.txt"),
            lambda: builder.bootstrap(large, deploy / "lab-host" / "packages.txt"),
            lambda: builder.named("wheels of vantage6", wheels.vantage6_wheels),
            lambda: builder.named("wheels for hosts", lambda: wheels.extra_wheels("host")),
            lambda: builder.named(
                "wheels for algorithms", lambda: wheels.extra_wheels("algorithm")
            ),
            lambda: builder.named("wheel of v6-overlay", wheels.own_wheel),
        ]
    )
    home = _python_310(node_key)
    tree = CACHE / f"python-{node_key}" if home else None
    builder.build(
        images.node,
        deploy / "node",
        {"BASE_IMAGE": small, "PYTHON_HOME": str(home)},
        {"wheels": python_wheels, "python": tree},
    )
    sums = {"wheels": sums_wheels, "own": own_wheel}
    host = {"wheels": host_wheels, "own": own_wheel, "rootfs": deploy / "lab-host" / "rootfs"}
    host_arguments = {"BASE_IMAGE": large, "NODE_IMAGE": images.node, "PYTHON_HOME": str(home)}

    def build_sums() -> None:
        arguments = {"BASE_IMAGE": small}
        builder.build(images.sums_deps, deploy / "algorithm", arguments, sums, target="deps")
        builder.build(images.sums, deploy / "algorithm", arguments, sums)

    in_parallel(
        [
            build_sums,
            lambda: builder.build(images.host, deploy / "lab-host", host_arguments, host),
        ]
    )
    builder.forget_all_but(images)
    return images


class _Builder:
    def __init__(self, engine: Engine, progress: Progress) -> None:
        self._engine = engine
        self._progress = progress

    def has(self, image: str) -> bool:
        return self._engine.docker("image", "inspect", image, check=False).returncode == 0

    def named(self, step: str, job: Callable[[], Path]) -> Path:
        self._progress(step)
        return job()

    def forget_all_but(self, images: Images) -> None:
        """Drop what earlier states of the checkout left; an image in use stays."""
        keep = {images.host, images.node, images.sums, images.sums_deps}
        listed = self._engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout
        repositories = {name.rpartition(":")[0] for name in keep}
        old = [n for n in listed.split() if n.rpartition(":")[0] in repositories and n not in keep]
        if old:
            self._engine.docker("rmi", *old, check=False)
        wheels.forget_old()

    def bootstrap(self, image: str, packages: Path) -> None:
        """A Debian of the given packages, by the machine's own apt settings where it runs it."""
        if self.has(image):
            return
        self._progress(f"base image {image} (Debian {_SUITE})")
        include = ",".join(packages.read_text().split())
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            tar = Path(scratch) / "root.tar"
            exclude = [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale")]
            call(
                [
                    *("mmdebstrap", "--variant=minbase", f"--include={include}", *exclude),
                    *(_SUITE, str(tar), *_sources()),
                ]
            )
            self._engine.docker("import", str(tar), image)

    def build(
        self,
        image: str,
        recipe: Path,
        arguments: dict[str, str],
        inputs: dict[str, Path | None],
        target: str = "",
    ) -> None:
        """`docker build` with a context made of hard links, so that nothing large is copied."""
        if self.has(image):
            return
        self._progress(f"image {image}")
        context = Path(tempfile.mkdtemp(prefix="context-", dir=CACHE))
        try:
            shutil.copy(recipe / "Dockerfile", context)
            for name, path in inputs.items():
                if path is not None:
                    call(["cp", "-a", "--reflink=auto", str(path), str(context / name)])
            options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
            options += [f"--target={target}"] if target else []
            self._engine.docker(
                "build", "--quiet", "--network=none", "--cgroup-parent=/v6-overlay-lab",
                *options, "--tag", image, str(context),
            )  # fmt: skip
        finally:
            shutil.rmtree(context)


def _sources() -> list[str]:
    """The machine's own Debian sources where they are of our suite; else mmdebstrap's default."""
    folder = Path("/etc/apt/sources.list.d")
    places = [Path("/etc/apt/sources.list"), *folder.glob("*.sources"), *folder.glob("*.list")]
    mine = []
    for place in filter(Path.is_file, places):
        text = place.read_text()
        theirs = "signed-by" in text.lower() and "debian-archive-keyring" not in text
        if re.search(rf"\s{_SUITE}\s", text) and not theirs:
            mine.append(str(place))
    return mine


def _python_310(key: str) -> Path:
    """Copy the interpreter's tree without its tests into the cache; returns the path it needs."""
    home = python_home(find_python("3.10", portable=True))
    tree = CACHE / f"python-{key}"
    if not tree.is_dir():
        part = tree.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        skip = shutil.ignore_patterns("test", "tests", "__pycache__", "*.a", "site-packages")
        shutil.copytree(home, part, symlinks=True, ignore=skip)
        part.replace(tree)
    return home
