"""Ticks that come soon but not too often."""

import asyncio

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


async def test_another_tick_comes_when_who_rested_is_due() -> None:
    ticks: asyncio.Queue[int] = asyncio.Queue()

    async def needed() -> bool:
        return True

    async def allocate() -> None:
        ticks.put_nowait(1)

    ticker = Ticker(needed, allocate, every_s=3600.0, gap_s=0.0, again_s=lambda: 0.01)
    running = asyncio.create_task(ticker.run())
    async with asyncio.timeout(10):
        for _ in range(3):
            await ticks.get()
    running.cancel()
