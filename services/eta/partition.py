"""What a process remembers of one partition of gps-events, between batches."""

import uuid
from collections.abc import Iterable

from services.eta.couriers import CourierTable
from services.eta.seen import Hashes, SeenFixes
from services.eta.tracks import Track

# Couriers or orders in memory; beyond it all are forgotten and read again as they come.
_REMEMBERED = 100_000


class Partition:
    """A copy of what the store holds, good as long as `token` is the store's.

    A batch changes it before the batch is committed. If the commit fails, the store has another token, and
    what is here is dropped.
    """

    def __init__(self, number: int, *, seen_limit: int) -> None:
        self.number = number
        self._seen_limit = seen_limit
        self.forget()

    def forget(self) -> None:
        """Nothing is known any more."""
        self.token: uuid.UUID | None = None
        self.seen = SeenFixes(self._seen_limit)
        self.couriers = CourierTable()
        self.tracks: dict[str, Track] = {}

    def take_over(self, token: uuid.UUID, seen: Iterable[tuple[Hashes, Hashes]]) -> None:
        """Begin from what the store holds."""
        self.forget()
        for ids, contents in seen:
            self.seen.add(ids, contents)
        self.token = token

    def trim(self, delivered: Iterable[Track]) -> None:
        """Keep memory bounded; what is dropped here is still in the store."""
        for track in delivered:
            self.tracks.pop(track.order_id, None)
        if len(self.couriers) > _REMEMBERED:
            self.couriers = CourierTable()
        if len(self.tracks) > _REMEMBERED:
            self.tracks = {}
