"""Events in memory until they are durable: in order, and only so many."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from services.mesh.feedback.receipts import Receipt

# Reached only if neither the service nor the disk takes any, or not as fast as events come.
_MAX_EVENTS: Final = 20_000
_MAX_BYTES: Final = 64 << 20


class Waiting:
    """A queue of receipts. From the loop's thread only.

    `batch_size`: as many are not left waiting for more.
    """

    def __init__(
        self, batch_size: int, *, max_events: int = _MAX_EVENTS, max_bytes: int = _MAX_BYTES
    ) -> None:
        self._batch_size = batch_size
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queue: deque[Receipt] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._enough = asyncio.Event()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, receipt: Receipt) -> bool:
        """Whether there was room: those that came first stay."""
        if len(self._queue) >= self._max_events or self._bytes + receipt.size > self._max_bytes:
            return False
        self._queue.append(receipt)
        self._bytes += receipt.size
        self._some.set()
        if len(self._queue) >= self._batch_size:
            self._enough.set()
        return True

    def put_back(self, receipts: Sequence[Receipt]) -> None:
        """Those that were taken and could not be made durable stand before all others again."""
        if receipts:
            self._queue.extendleft(reversed(receipts))
            self._bytes += sum(receipt.size for receipt in receipts)
            self._some.set()

    def take(self, max_events: int, max_bytes: int) -> list[Receipt]:
        """The oldest, at least one if there is one."""
        taken: list[Receipt] = []
        size = 0
        while self._queue and len(taken) < max_events:
            size += self._queue[0].size
            if taken and size > max_bytes:
                break
            taken.append(self._queue.popleft())
            self._bytes -= taken[-1].size
        if not self._queue:
            self._some.clear()
        return taken

    async def some(self, linger_s: float) -> None:
        """Until there is one, and then until there are enough, at most `linger_s`."""
        await self._some.wait()
        self._enough.clear()
        if linger_s <= 0 or len(self._queue) >= self._batch_size:
            return
        try:
            async with asyncio.timeout(linger_s):
                await self._enough.wait()
        except TimeoutError:
            return
