"""The one place where the mesh's thread sleeps: a socket, a posted command or the time wakes it."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from functools import partial

Command = Callable[[], None]


class Loop:
    """Sockets to watch and commands to run; all but `post` belong to the mesh's thread."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        for sock in (self._bell, self._ear):
            sock.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)

    def post(self, command: Command) -> None:
        """Have `command` run on the mesh's thread soon; any thread may call this."""
        self._commands.append(command)
        # A full pipe will wake the thread as well; a closed one has nobody to wake.
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def watch(self, sock: socket.socket, events: int, ready: Callable[[int], None]) -> None:
        """From now on `wait` gives out `ready(events that came)`; no events, no watching."""
        try:
            current = self._selector.get_key(sock).events
        except KeyError:
            if events:
                self._selector.register(sock, events, ready)
            return
        if not events:
            self._selector.unregister(sock)
        elif events != current:
            self._selector.modify(sock, events, ready)

    def forget(self, sock: socket.socket) -> None:
        """Watch a socket no more; to be called before it is closed or wrapped."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(sock)

    def wait(self, pause: float) -> list[Command]:
        """What is to be done after at most `pause` seconds: ready sockets, then commands."""
        actions: list[Command] = []
        for key, events in self._selector.select(pause):
            if key.fileobj is self._ear:
                # Before the commands are taken, so that one posted later rings again.
                with contextlib.suppress(BlockingIOError):
                    self._ear.recv(4096)
            else:
                actions.append(partial(key.data, events))
        while self._commands:
            actions.append(self._commands.popleft())
        return actions

    def close(self) -> None:
        """Watch nothing any more; commands posted from now on are not run."""
        for sock in (self._bell, self._ear):
            sock.close()
        self._selector.close()
