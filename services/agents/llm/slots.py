"""How many calls this process has under way at once."""

import asyncio
import contextlib
from collections import deque


class Slots:
    """`size` places, given out first come, first served; exact, whatever is cancelled when."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def taken(self) -> int:
        """Places in use."""
        return self.size - self._free

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    async def take(self, within_s: float) -> bool:
        """A place, or False if none came free in time."""
        if self._free:  # then nobody waits: a place that comes back goes to who does
            self._free -= 1
            return True
        if within_s <= 0:
            return False
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with asyncio.timeout(within_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self.give_back()  # it came in the same moment
            else:
                with contextlib.suppress(ValueError):  # whoever gave a place back has passed over it
                    self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def give_back(self) -> None:
        """The place goes to whoever has waited longest."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
