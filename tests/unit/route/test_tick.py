"""Ticks that come soon but not too often."""

import asyncio

import pytest

from services.route.tick import Ticker


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


async def test_after_a_long_call_it_rests_as_long_whatever_is_wished_for() -> None:
    now = 0.0
    began: list[float] = []
    asked: list[float] = []

    async def needed() -> bool:
        return True

    async def allocate() -> None:
        nonlocal now
        began.append(now)
        now += 30.0
        ticker.soon()

    async def rest(seconds: float) -> None:
        nonlocal now
        asked.append(seconds)
        now += seconds
        if len(began) == 3:
            raise asyncio.CancelledError

    ticker = Ticker(needed, allocate, every_s=10.0, gap_s=1.0, clock=lambda: now, sleep=rest)
    with pytest.raises(asyncio.CancelledError):
        await ticker.run()
    assert began == [0.0, 60.0, 120.0]
    assert asked == [30.0, 30.0, 30.0]
