"""What a join has begun is on disk before it begins; undoing goes backwards, and not half-way."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay.drivers import files
from overlay.station.host import Host

NOTE = Path("/var/lib/v6-overlay/joining.json")

log = logging.getLogger(__name__)


class Journal:
    """Steps begun, in order, on disk; undoing goes backwards and can be repeated."""

    def __init__(self, host: Host, path: Path = NOTE) -> None:
        self.host = host
        self.path = path
        self.steps: list[str] = []
        if path.exists():
            self.steps = [str(step) for step in files.read_json(path).get("steps", [])]

    def begin(self, step: str) -> None:
        """Note a step whose reverse is the host's method `un<step>`."""
        self.steps.append(step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self.path, {"steps": self.steps})

    def undo(self) -> list[str]:
        """Undo all steps, last first; returns what could not be undone, and keeps its note."""
        failed: list[str] = []
        kept: list[str] = []
        for step in reversed(self.steps):
            try:
                getattr(self.host, f"un{step}")()
            except Exception as error:  # each step is tried, whatever happened to the others
                log.error("undo step=%s failed reason=%r", step, str(error))
                failed.append(f"{step}: {error}")
                kept.insert(0, step)
        self.steps = kept
        if kept:
            files.write_json(self.path, {"steps": kept})
        else:
            self.done()
        return failed

    def done(self) -> None:
        """Nothing is to be undone any more."""
        self.steps = []
        self.path.unlink(missing_ok=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, so that both undo."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Undoing is not interrupted half-way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
