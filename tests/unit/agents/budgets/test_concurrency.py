"""How many runs go on at once: exactly as many as may, and nothing is remembered of those that have gone."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from services.agents.budgets.concurrency import ConcurrencyLimits, Room
from services.mesh.errors import ResourceExhausted

AGENT = ("agent", "acme", "agent-1")
KEY = ("key", "acme", "0123456789ab")


async def test_of_two_hundred_at_once_exactly_as_many_get_in_as_may() -> None:
    limits = ConcurrencyLimits()
    most, inside, let_in = 7, 0, 0
    rounds = asyncio.Barrier(200)

    async def call() -> None:
        nonlocal inside, most, let_in
        for _ in range(5):
            await rounds.wait()
            try:
                with limits.try_enter(Room(AGENT, most), Room(KEY, None)):
                    inside += 1
                    let_in += 1
                    assert inside <= most
                    await rounds.wait()
                    inside -= 1
            except ResourceExhausted:
                await rounds.wait()

    await asyncio.gather(*(call() for _ in range(200)))
    assert let_in == 5 * most
    assert len(limits) == 0


def test_in_all_rooms_or_in_none() -> None:
    limits = ConcurrencyLimits()
    with limits.try_enter(Room(AGENT, 2), Room(KEY, 1)):
        with pytest.raises(ResourceExhausted, match="key") as full:
            limits.try_enter(Room(AGENT, 2), Room(KEY, 1)).__enter__()
        assert full.value.reason_name == "OVERLOADED"
        assert full.value.retry_after_s is not None
        assert (limits.inside(AGENT), limits.inside(KEY)) == (1, 1)
    assert len(limits) == 0


def test_a_failure_inside_leaves_the_room() -> None:
    limits = ConcurrencyLimits()
    with pytest.raises(ZeroDivisionError), limits.try_enter(Room(AGENT, 1)):
        raise ZeroDivisionError
    with limits.try_enter(Room(AGENT, 1)):
        pass


def test_without_a_limit_nobody_is_counted() -> None:
    limits = ConcurrencyLimits()
    with ExitStack() as many:
        for _ in range(1_000):
            many.enter_context(limits.try_enter(Room(AGENT, None)))
        assert len(limits) == 0


def test_a_limit_that_is_lowered_lets_nobody_in_until_enough_have_left() -> None:
    limits = ConcurrencyLimits()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(limits.try_enter(Room(AGENT, 2)))
        second.enter_context(limits.try_enter(Room(AGENT, 2)))
        first.close()
        with pytest.raises(ResourceExhausted), limits.try_enter(Room(AGENT, 1)):
            pass
    with limits.try_enter(Room(AGENT, 1)):
        pass
