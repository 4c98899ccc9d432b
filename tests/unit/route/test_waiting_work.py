"""Writes in groups, and ticks that come soon but not too often."""

import asyncio
from collections.abc import Sequence

import pytest

from services.route.group_writes import GroupWriter
from services.route.tick import Ticker


class Groups:
    """A store that takes a while."""

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.go = asyncio.Event()
        self.started = asyncio.Event()

    async def write(self, items: Sequence[int]) -> Sequence[int]:
        self.started.set()
        await self.go.wait()
        if -1 in items:
            raise ValueError("bad item")
        self.written.append(list(items))
        return [item * 10 for item in items]


async def test_what_arrives_during_a_write_goes_into_the_next_together() -> None:
    groups = Groups()
    writer = GroupWriter(groups.write, max_items=3)
    first = asyncio.create_task(writer.submit([1]))
    await groups.started.wait()
    others = [asyncio.create_task(writer.submit([n])) for n in (2, 3, 4, 5)]
    await asyncio.sleep(0)
    groups.go.set()
    assert await first == [10]
    assert [await other for other in others] == [[20], [30], [40], [50]]
    assert groups.written == [[1], [2, 3, 4], [5]]


async def test_whoever_is_at_fault_fails_alone() -> None:
    groups = Groups()
    writer = GroupWriter(groups.write)
    first = asyncio.create_task(writer.submit([1]))
    await groups.started.wait()
    good, bad = asyncio.create_task(writer.submit([2])), asyncio.create_task(writer.submit([-1]))
    await asyncio.sleep(0)
    groups.go.set()
    assert await first == [10]
    assert await good == [20]
    with pytest.raises(ValueError, match="bad item"):
        await bad


async def test_a_caller_who_goes_away_takes_nothing_along() -> None:
    groups = Groups()
    writer = GroupWriter(groups.write)
    gone, stays = asyncio.create_task(writer.submit([1])), asyncio.create_task(writer.submit([2]))
    await groups.started.wait()
    gone.cancel()
    groups.go.set()
    assert await stays == [20]
    await writer.close()
    assert sorted(item for group in groups.written for item in group) == [1, 2]


async def test_a_tick_comes_soon_after_it_is_wished_for() -> None:
    ticks: asyncio.Queue[int] = asyncio.Queue()

    async def needed() -> bool:
        return True

    async def allocate() -> None:
        ticks.put_nowait(1)

    ticker = Ticker(needed, allocate, every_s=3600.0, gap_s=0.0)
    running = asyncio.create_task(ticker.run())
    async with asyncio.timeout(10):
        await ticks.get()  # the first comes at once
        ticker.soon()
        await ticks.get()
    running.cancel()


async def test_nothing_is_allocated_while_nobody_waits() -> None:
    asked: asyncio.Queue[int] = asyncio.Queue()

    async def needed() -> bool:
        asked.put_nowait(1)
        return False

    async def allocate() -> None:
        raise AssertionError("nobody waits")

    ticker = Ticker(needed, allocate, every_s=0.001, gap_s=0.0)
    running = asyncio.create_task(ticker.run())
    async with asyncio.timeout(10):
        for _ in range(3):
            await asked.get()
    assert not running.done()
    running.cancel()
