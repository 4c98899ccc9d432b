"""How many connections one process holds, and who makes room: memory and descriptors are bounded by it.

Whoever is slow has a limit of time (`connection.py`); this is the limit of how many may be so at once.
"""

import logging
import resource
from dataclasses import dataclass, field
from typing import Final, Protocol

_log = logging.getLogger(__name__)

# Of the descriptors, for everything that is no connection of a client.
_OTHER_FILES: Final = 256
# Who does not read what he has asked for holds it here. So many at most.
MAX_UNREAD: Final = 128
# And so long at most, in seconds.
UNREAD_S: Final = 60.0


class Member(Protocol):
    """A connection."""

    def close(self) -> None:
        """Ends it, once what is written has been sent."""

    def hang_up(self) -> None:
        """Ends it at once."""


@dataclass(slots=True)
class Crowd:
    """All connections of a server; at most `most` are open. Both orders are those of time."""

    most: int
    max_unread: int = MAX_UNREAD
    size: int = 0
    _quiet: dict[Member, None] = field(default_factory=dict)
    _unread: dict[Member, None] = field(default_factory=dict)

    def join(self, member: Member) -> bool:
        """A connection is made; False if there is no room, not even in place of one that asks for nothing."""
        if self.size >= self.most:
            quietest = next(iter(self._quiet), None)
            if quietest is None:
                return False
            del self._quiet[quietest]
            quietest.close()
        self.size += 1
        self._quiet[member] = None
        return True

    def leave(self, member: Member) -> None:
        """One that had joined has ended."""
        self.size -= 1
        self._quiet.pop(member, None)
        self._unread.pop(member, None)

    def quiet(self, member: Member) -> None:
        """It waits for its client to ask again."""
        self._quiet[member] = None

    def speaks(self, member: Member) -> None:
        """Its client says something."""
        self._quiet.pop(member, None)

    def unread(self, member: Member) -> None:
        """Its client does not read; whoever has not for longest goes, if there are too many."""
        self._unread[member] = None
        if len(self._unread) > self.max_unread:
            longest = next(iter(self._unread))
            del self._unread[longest]
            longest.hang_up()

    def reads(self, member: Member) -> None:
        """Its client reads again."""
        self._unread.pop(member, None)


def room_for(most: int) -> int:
    """How many connections the limit of open files lets in, which is raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return most
    room = max(1, soft - _OTHER_FILES)
    _log.warning("%d connections at most: no more files may be open", room)
    return room
