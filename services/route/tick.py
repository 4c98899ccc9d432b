"""When to allocate: every tick, and soon after something that may change who waits or who is free."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable


class Ticker:
    """Calls `allocate` every `every_s` seconds and within `gap_s` of `soon`, never more often than `gap_s`.

    `needed` says whether there is anything to do; it is asked before each call. `again_s` says after each
    whether another is due sooner.
    """

    def __init__(
        self,
        needed: Callable[[], Awaitable[bool]],
        allocate: Callable[[], Awaitable[object]],
        *,
        every_s: float,
        gap_s: float,
        again_s: Callable[[], float | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._needed = needed
        self._allocate = allocate
        self._every_s = every_s
        self._gap_s = gap_s
        self._again_s = again_s
        self._clock = clock
        self._wanted = asyncio.Event()

    def soon(self) -> None:
        """A courier has become free or an order waits."""
        self._wanted.set()

    async def run(self) -> None:
        """Ticks until cancelled. What `allocate` raises ends it; whoever runs it starts it again."""
        last = self._clock() - self._every_s
        due = last
        while True:
            due_s = due - self._clock()
            if due_s > 0:
                # Not `wait_for`: up to Python 3.11 it passes over a cancellation that comes with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due_s):
                        await self._wanted.wait()
            gap_s = last + self._gap_s - self._clock()
            if gap_s > 0:
                await asyncio.sleep(gap_s)
            self._wanted.clear()
            last = self._clock()
            due = last + self._every_s
            if await self._needed():
                await self._allocate()
                again_s = self._again_s()
                if again_s is not None:
                    due = min(due, self._clock() + again_s)
