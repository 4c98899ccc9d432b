"""The places for calls under way: exact and in turn, whoever goes when."""

import asyncio
import random

import pytest

from services.agents.llm.slots import Slots

GUARD_S = 20.0


async def test_no_more_than_its_size_are_taken_by_200_callers():
    slots, inside, peak = Slots(7), 0, 0

    async def caller() -> None:
        nonlocal inside, peak
        assert await slots.take(GUARD_S)
        inside += 1
        peak = max(peak, inside)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        inside -= 1
        slots.give_back()

    await asyncio.gather(*(caller() for _ in range(200)))
    assert (peak, inside, slots.taken, slots.waiting) == (7, 0, 0, 0)


async def test_places_are_given_in_the_order_of_asking():
    slots = Slots(1)
    await slots.take(GUARD_S)
    order: list[int] = []

    async def caller(number: int) -> None:
        await slots.take(GUARD_S)
        order.append(number)
        slots.give_back()

    tasks = [asyncio.create_task(caller(number)) for number in range(20)]
    await asyncio.sleep(0)
    slots.give_back()
    await asyncio.gather(*tasks)
    assert order == list(range(20))


async def test_who_comes_later_does_not_overtake_who_waits():
    slots = Slots(1)
    await slots.take(GUARD_S)
    waiting = asyncio.create_task(slots.take(GUARD_S))
    await asyncio.sleep(0)
    slots.give_back()
    assert not await slots.take(0)
    assert await waiting


async def test_a_place_that_is_not_free_in_time_is_not_given():
    slots = Slots(1)
    await slots.take(GUARD_S)
    assert not await slots.take(0.001)
    assert slots.waiting == 0
    slots.give_back()
    assert await slots.take(0)


@pytest.mark.parametrize("given", [False, True])
async def test_a_caller_that_is_cancelled_leaves_no_place_taken(given: bool):
    slots = Slots(1)
    await slots.take(GUARD_S)
    waiting = asyncio.create_task(slots.take(GUARD_S))
    await asyncio.sleep(0)
    if given:  # the place comes in the same moment as the cancellation
        slots.give_back()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not given:
        slots.give_back()
    assert (slots.taken, slots.waiting) == (0, 0)


async def test_no_place_is_lost_or_made_whatever_is_cancelled_when():
    rng = random.Random(7)
    slots, inside, peak = Slots(5), 0, 0

    async def caller() -> None:
        nonlocal inside, peak
        if not await slots.take(rng.choice((0.0, 0.0005, GUARD_S))):
            return
        inside += 1
        peak = max(peak, inside)
        try:
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
        finally:
            inside -= 1
            slots.give_back()

    tasks = [asyncio.create_task(caller()) for _ in range(400)]
    for _ in range(300):
        await asyncio.sleep(0)
        rng.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (peak, inside, slots.taken, slots.waiting) == (5, 0, 0, 0)
