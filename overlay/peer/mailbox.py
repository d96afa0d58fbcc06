"""The one place where the mesh's thread and the algorithm's thread meet."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from overlay.errors import OverlayError
from overlay.wire import Payload

T = TypeVar("T")

# What a message costs besides its bytes: without it a crowd of tiny ones would go uncounted.
_ENVELOPE = 512


@dataclass(frozen=True)
class Message:
    """One message: who sent it, in which round, and what it carries."""

    sender: str
    round: int
    payload: Payload


class Mailbox:
    """Messages that have arrived, who is here, and the first failure; guarded by `changed`."""

    def __init__(self, max_unread: int, on_room: Callable[[], None]) -> None:
        self.changed = threading.Condition()
        self.present: set[str] = set()
        self.departed: set[str] = set()
        self.failure: OverlayError | None = None
        self._messages: deque[tuple[Message, int]] = deque()
        self._unread: dict[str, int] = {}
        self._max_unread = max_unread
        self._on_room = on_room

    def put(self, message: Message, size: int) -> None:
        """Add a message of `size` bytes."""
        size += _ENVELOPE
        with self.changed:
            self._messages.append((message, size))
            self._unread[message.sender] = self._unread.get(message.sender, 0) + size
            self.changed.notify_all()

    def arrive(self, station: str) -> None:
        """A peer is connected."""
        with self.changed:
            self.present.add(station)
            self.changed.notify_all()

    def depart(self, station: str) -> None:
        """A peer has finished in order; what it sent before stays readable."""
        with self.changed:
            self.departed.add(station)
            self.changed.notify_all()

    def fail(self, error: OverlayError) -> None:
        """Record why the run cannot go on; the first reason stands."""
        with self.changed:
            if self.failure is None:
                self.failure = error
            self.changed.notify_all()

    def is_full(self, station: str) -> bool:
        """Whether so much of this peer lies unread that it must wait."""
        return self._unread.get(station, 0) > self._max_unread

    def take(self, senders: set[str], rounds: range) -> Message | None:
        """The oldest message of these senders and rounds; call with `changed` held."""
        for place, (message, size) in enumerate(self._messages):
            if message.round in rounds and message.sender in senders:
                del self._messages[place]
                was_full = self.is_full(message.sender)
                self._unread[message.sender] -= size
                if was_full:
                    self._on_room()
                return message
        return None

    def rounds(self, sender: str) -> list[int]:
        """The rounds of the unread messages of a sender; call with `changed` held."""
        return sorted({m.round for m, _ in self._messages if m.sender == sender})

    def wait(self, ready: Callable[[], T | None], deadline: float) -> T | None:
        """Wait until `ready()` gives something; None when `deadline` (monotonic) has passed.

        What has arrived is given out even after a failure; only who must wait meets it.

        Raises:
            OverlayError: the recorded failure.
        """
        with self.changed:
            while True:
                value = ready()
                if value is not None:
                    return value
                if self.failure is not None:
                    raise self.failure
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)
