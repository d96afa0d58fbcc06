"""Real groups on loopback, as fast as a test wants them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from overlay.errors import OverlayError
from overlay.peer import Group, Settings

FAST = Settings(heartbeat=0.1, silent=0.8, handshake=2.0, parting=1.0)


def together(paths, algorithm, *, rendezvous=10.0, timeout=10.0, settings=FAST):
    """Run `algorithm(group)` for each path in a thread; results or errors, in order."""

    def one(path):
        try:
            with Group.join(rendezvous, timeout, path=path, settings=settings) as group:
                return algorithm(group)
        except OverlayError as error:
            return error

    with ThreadPoolExecutor(len(paths)) as pool:
        return list(pool.map(one, paths))
