"""The mailbox's bound holds for what a peer makes this process keep, not for its bytes alone."""

from __future__ import annotations

import tracemalloc

from overlay.peer.mailbox import Mailbox, Message


def test_a_crowd_of_small_messages_fills_it_too() -> None:
    limit = 1 << 20
    box = Mailbox(limit, lambda: None)
    tracemalloc.start()
    try:
        while not box.is_full("a"):
            box.put(Message("a", 1, bytes([7]) * 1), 65)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 2 * limit
    while box.take({"a"}, range(2)) is not None:
        pass
    assert not box.is_full("a")
