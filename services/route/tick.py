"""When to allocate: every tick, and soon after something that may change who waits or who is free."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable


class Ticker:
    """Calls `allocate` every `every_s` seconds and within `gap_s` of `soon`, never more often than `gap_s`.

    After a long call it rests as long as that took: where more waits than can be carried, allocating would
    have all of the machine otherwise.
    `needed` says whether there is anything to do; it is asked before each call.
    """

    def __init__(
        self,
        needed: Callable[[], Awaitable[bool]],
        allocate: Callable[[], Awaitable[object]],
        *,
        every_s: float,
        gap_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._needed = needed
        self._allocate = allocate
        self._every_s = every_s
        self._gap_s = gap_s
        self._clock = clock
        self._sleep = sleep
        self._wanted = asyncio.Event()

    def soon(self) -> None:
        """A courier has become free or an order waits."""
        self._wanted.set()

    async def run(self) -> None:
        """Ticks until cancelled. What `allocate` raises ends it; whoever runs it starts it again."""
        last = rested = self._clock() - self._every_s
        while True:
            due_s = last + self._every_s - self._clock()
            if due_s > 0:
                # Not `wait_for`: up to Python 3.11 it passes over a cancellation that comes with the event.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due_s):
                        await self._wanted.wait()
            gap_s = max(last + self._gap_s, rested) - self._clock()
            if gap_s > 0:
                await self._sleep(gap_s)
            self._wanted.clear()
            last = self._clock()
            if await self._needed():
                await self._allocate()
            rested = 2 * self._clock() - last
