"""What an algorithm author uses inside a container: the group of this run's peers.

from overlay.peer import Group

with Group.join() as group:
    answers = group.exchange({station: payload for station in group.others})
"""

from overlay.peer.group import Group
from overlay.peer.mailbox import Message
from overlay.peer.settings import Settings

__all__ = ["Group", "Message", "Settings"]
