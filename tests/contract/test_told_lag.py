"""Lag is told while a handler hangs, which is when somebody wants to know of it; on both adapters."""

import asyncio
from collections.abc import Callable
from typing import Any

from services.mesh.events.metering import SilentMeter
from tests.contract.events_rig import GUARD_S, Rig, message


class Board(SilentMeter):
    """What Prometheus would be told."""

    def __init__(self) -> None:
        self.lags: dict[tuple[str, int], int] = {}

    def lag(self, topic: str, partition: int, events: int) -> None:
        self.lags[topic, partition] = events

    def gone(self, topic: str, partition: int) -> None:
        self.lags.pop((topic, partition), None)

    async def until(self, holds: Callable[[int], bool]) -> None:
        """Returns once the sum of all lags is as wanted."""
        async with asyncio.timeout(GUARD_S):
            while not self.lags or not holds(sum(self.lags.values())):
                await asyncio.sleep(0.02)


async def test_lag_grows_while_a_handler_hangs_and_goes_with_the_reader(rig: Rig) -> None:
    process = await rig.bus()
    bus: Any = process.bus
    bus._meter = board = Board()
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def hang(*_: object) -> None:
        entered.set()
        await go_on.wait()

    await process.publish(message("k", "first"))
    task = process.start(process.bus.consume("g", ["moves"], hang))
    async with asyncio.timeout(GUARD_S):
        await entered.wait()
    await process.publish(*(message("k", f"{n}") for n in range(20)))
    await board.until(lambda events: events >= 20)
    go_on.set()
    await board.until(lambda events: events == 0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert board.lags == {}
