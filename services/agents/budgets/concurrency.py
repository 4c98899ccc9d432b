"""How many runs may go on at once, exactly, in this process.

Counted per process: with several replicas each lets as many in. A count over all of them would need the store
before every run; who wants a bound over all replicas divides it by their number.
"""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_OVERLOADED

from services.mesh.errors import DEFAULT_RETRY_AFTER_S, ResourceExhausted


@dataclass(frozen=True, slots=True)
class Room:
    """What is counted, such as ("agent", tenant, agent_id), and how many may be in it; None: any number."""

    what: tuple[str, ...]
    most: int | None


class ConcurrencyLimits:
    """One per process. Nothing is kept for what nobody is in."""

    def __init__(self) -> None:
        self._inside: defaultdict[tuple[str, ...], int] = defaultdict(int)

    def __len__(self) -> int:
        """How many rooms somebody is in."""
        return len(self._inside)

    def inside(self, what: tuple[str, ...]) -> int:
        """How many are in a room."""
        return self._inside.get(what, 0)

    @contextlib.contextmanager
    def try_enter(self, *rooms: Room) -> Iterator[None]:
        """In all of the rooms while the block lasts, or in none.

        Raises ResourceExhausted (OVERLOADED) at once if one of them is full; nobody waits.
        """
        for room in rooms:
            if room.most is not None and self.inside(room.what) >= room.most:
                raise ResourceExhausted(
                    f"this {room.what[0]} has {room.most} runs under way already, as many as it may",
                    reason=ERROR_REASON_OVERLOADED,
                    retry_after_s=DEFAULT_RETRY_AFTER_S,
                )
        entered = _limited(rooms)
        for what in entered:
            self._inside[what] += 1
        try:
            yield
        finally:
            for what in entered:
                self._inside[what] -= 1
                if not self._inside[what]:
                    del self._inside[what]


def _limited(rooms: Sequence[Room]) -> list[tuple[str, ...]]:
    """Only where there is a limit is anybody counted."""
    return [room.what for room in rooms if room.most is not None]
