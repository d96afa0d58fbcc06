"""A peer that is not there yet is dialled again and again; a slow name server holds up nobody."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from overlay.peer.roster import Member

_FIRST_WAIT = 0.05
_LONGEST_WAIT = 1.0

# A family and what `connect` takes in it.
Address = tuple[int, Any]


@dataclass
class _Target:
    member: Member
    next_try: float = 0.0
    wait: float = _FIRST_WAIT
    under_way: bool = False


class Dialer:
    """When to dial whom. Lives on the mesh's thread; only name resolution has threads of its own.

    Args:
        members: whom this run dials.
        post: runs a callable on the mesh's thread soon.
        connect: opens a connection to a member at an address.
    """

    def __init__(
        self,
        members: tuple[Member, ...],
        post: Callable[[Callable[[], None]], None],
        connect: Callable[[Member, Address], None],
    ) -> None:
        self._targets = {m.station: _Target(m) for m in members}
        self._post = post
        self._connect = connect
        self.last_error: dict[str, str] = {}

    @property
    def active(self) -> bool:
        """Whether anyone is still to be reached."""
        return bool(self._targets)

    def tick(self, now: float) -> None:
        """Dial everyone whose time has come."""
        for target in list(self._targets.values()):
            if target.under_way or now < target.next_try:
                continue
            target.under_way = True
            if target.member.address:
                address = (target.member.address, target.member.port)
                self._connect(target.member, (socket.AF_INET, address))
            else:
                # The name is asked for anew each time: it appears when the peer's container does.
                threading.Thread(target=self._resolve, args=(target.member,), daemon=True).start()

    def failed(self, member: Member, why: str, now: float) -> None:
        """Note a failed attempt and when the next one is due."""
        self.last_error[member.station] = why
        target = self._targets.get(member.station)
        if target is not None:
            target.under_way = False
            target.next_try = now + target.wait
            target.wait = min(2 * target.wait, _LONGEST_WAIT)

    def reached(self, member: Member) -> None:
        """Dial this member no more."""
        self._targets.pop(member.station, None)

    def _resolve(self, member: Member) -> None:
        try:
            found = socket.getaddrinfo(member.hostname, member.port, type=socket.SOCK_STREAM)
            family, _, _, _, address = found[0]
        except (OSError, UnicodeError) as error:
            reason = f"its name does not resolve ({error})"
            self._post(lambda: self._unresolved(member, reason))
            return
        self._post(lambda: self._connect(member, (family, address)))

    def _unresolved(self, member: Member, why: str) -> None:
        target = self._targets.get(member.station)
        self.failed(member, why, target.next_try if target else 0.0)


def open_socket(address: Address) -> socket.socket:
    """A non-blocking socket on its way to `address`. Raises OSError when that fails at once."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    code = sock.connect_ex(where)
    if code not in (0, errno.EINPROGRESS):
        sock.close()
        raise OSError(code, "cannot connect")
    return sock
