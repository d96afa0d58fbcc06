"""Images reach the nested engines as a hard-linked copy of one data root, made once.

A pull by each engine takes 20 s; a copy of links takes less than 2. The registry beside it is for
the pull that a vantage6 node insists on, and gives the images the digest that a station can allow.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from overlay.errors import HostError
from overlay.lab import hosts, wheels
from overlay.lab.engine import Engine
from overlay.lab.images import Images
from overlay.lab.shell import Progress, call
from overlay.lab.state import CACHE, HOSTS_DATA

_SEEDS = CACHE / "seeds"
_NAME = "seed"
REGISTRY_CONFIG = """\
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: /var/lib/docker-registry}
  delete: {enabled: true}
http: {addr: ":5000"}
"""


def ensure_seed(engine: Engine, images: Images, progress: Progress) -> Path:
    """The directory with `docker/` (a data root), `registry/` and `digest`; made if absent."""
    seed: Path | None = None
    loaded: list[str] = []
    # In steps, so that an edit of the product does not load and push vantage6 again.
    for image in (images.node, images.sums_deps, images.sums):
        loaded.append(image)
        target = _SEEDS / f"{len(loaded)}-{wheels.digest(loaded)}"
        if not target.is_dir():
            progress(f"seed of the nested engines: {image}")
            _make(engine, images, target, seed, image)
            _forget_older(target)
        seed = target
    assert seed is not None  # noqa: S101
    return seed


def _forget_older(seed: Path) -> None:
    for other in _SEEDS.glob(f"{seed.name[:2]}*"):
        if other != seed:
            shutil.rmtree(other)


def image_digest(seed: Path) -> str:
    """Digest of the algorithm image in the registry, as "sha256:..."."""
    return (seed / "digest").read_text().strip()


def copy_data_root(seed: Path, host: str) -> None:
    """Give a host its own data root: links to the layers, copies of what an engine writes to."""
    target = HOSTS_DATA / host / "docker"
    target.parent.mkdir(parents=True, exist_ok=True)
    call(["cp", "-a", "--link", str(seed / "docker"), str(target)])
    # boltdb files are written in place: a shared inode would be shared state.
    for shared in target.rglob("*.db"):
        private = shared.with_suffix(".private")
        shutil.copy2(shared, private)
        private.replace(shared)


def copy_registry(seed: Path, host: str) -> Path:
    """Give a host its own copy of the registry; returns the directory to bind."""
    target = HOSTS_DATA / host / "registry"
    target.parent.mkdir(parents=True, exist_ok=True)
    call(["cp", "-a", "--reflink=auto", str(seed / "registry"), str(target)])
    return target


def _make(engine: Engine, images: Images, target: Path, start: Path | None, image: str) -> None:
    _SEEDS.mkdir(parents=True, exist_ok=True)
    engine.docker("rm", "--force", "--volumes", hosts.container(_NAME), check=False)
    shutil.rmtree(HOSTS_DATA / _NAME, ignore_errors=True)
    (HOSTS_DATA / _NAME).mkdir(parents=True)
    if start is None:
        registry = HOSTS_DATA / _NAME / "registry"
        registry.mkdir()
    else:
        copy_data_root(start, _NAME)
        registry = copy_registry(start, _NAME)
    plan = hosts.HostPlan(
        name=_NAME,
        address="",
        peers={"central": "127.0.0.1"},
        files={"/etc/docker/registry/config.yml": hosts.Text(REGISTRY_CONFIG.encode())},
        mounts=[f"{registry}:/var/lib/docker-registry"],
    )
    try:
        hosts.start_host(engine, images.host, plan, network="none")
        hosts.wait_for(engine, _NAME, "docker version", 60, "the nested Docker Engine")
        run = ["chown", "-R", "docker-registry:", "/var/lib/docker-registry"]
        hosts.exec_in(engine, _NAME, run)
        hosts.exec_in(engine, _NAME, ["systemctl", "start", "docker-registry"])
        _transfer(engine, image)
        hosts.exec_in(engine, _NAME, ["docker", "push", "--quiet", image])
        found = hosts.exec_in(engine, _NAME, ["docker", "image", "inspect", image])
        digests = json.loads(found.stdout)[0]["RepoDigests"]
        hosts.exec_in(engine, _NAME, ["systemctl", "stop", "docker.socket", "docker", "containerd"])
        hosts.exec_in(engine, _NAME, ["systemctl", "stop", "docker-registry"])
        (HOSTS_DATA / _NAME / "digest").write_text(digests[0].partition("@")[2])
    finally:
        engine.docker("rm", "--force", "--volumes", hosts.container(_NAME), check=False)
    (HOSTS_DATA / _NAME).rename(target)


def _transfer(engine: Engine, image: str) -> None:
    """`docker save | docker load`, without a file between."""
    inside = engine.argv("exec", "--interactive", hosts.container(_NAME), "docker", "load", "-q")
    with subprocess.Popen(engine.argv("save", image), stdout=subprocess.PIPE) as save:
        done = subprocess.run(inside, stdin=save.stdout, capture_output=True, check=False)
    if save.returncode or done.returncode:
        raise HostError(f"cannot hand {image} to a nested engine", why=done.stderr.decode()[-800:])
