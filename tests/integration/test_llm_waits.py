"""When a model is asked again, and when the next one is: on a clock that moves only by waiting."""

import asyncio
from email.utils import formatdate
from typing import Any

import pytest

from services.agents.llm import ErrorKind, LanguageModels, ModelFailure, ModelReply
from services.mesh import deadline
from tests.integration.llm_rig import FIRST, SECOND, models, request
from tests.mock_openai import Fault, MockOpenAI, Script

BUSY = Script(fault=Fault.RATE_LIMITED)


class Time:
    """A clock, and a sleep that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 6))
        self.now += seconds
        await asyncio.sleep(0)


def on(server: MockOpenAI, time: Time, jitter: float = 1.0, **options: Any) -> Any:
    return models(server, clock=time, sleep=time.sleep, jitter=lambda: jitter, **options)


async def ask(asked: LanguageModels, time: Time, budget_s: float | None, **settings: Any) -> Any:
    with deadline.budget(budget_s, time):
        try:
            return await asked.complete(request(**settings), reserve_s=0.5)
        except ModelFailure as failure:
            return failure


async def test_waits_double_and_a_model_is_asked_three_times(mock_openai: MockOpenAI):
    mock_openai.always(BUSY, FIRST)
    time = Time()
    async with on(mock_openai, time) as asked:
        reply = await ask(asked, time, None)
    assert isinstance(reply, ModelReply)
    assert (reply.model, time.waits) == (SECOND, [0.5, 1.0])


async def test_waits_are_drawn_from_all_of_their_range(mock_openai: MockOpenAI):
    mock_openai.always(BUSY)
    time = Time()
    async with on(mock_openai, time, jitter=0.25) as asked:
        await ask(asked, time, None)
    assert time.waits == [0.125, 0.25, 0.125, 0.25]


@pytest.mark.parametrize(
    ("headers", "retry_after", "wait_s"),
    [({}, "3", 3.0), ({"retry-after-ms": "1500"}, "", 1.5), ({}, "2.5", 2.5)],
)
async def test_the_time_the_server_names_is_waited(
    mock_openai: MockOpenAI, headers: dict[str, str], retry_after: str, wait_s: float
):
    mock_openai.queue(FIRST, Script(fault=Fault.RATE_LIMITED, retry_after=retry_after, headers=headers))
    time = Time()
    async with on(mock_openai, time, jitter=0.0) as asked:
        reply = await ask(asked, time, None)
    assert (reply.model, time.waits) == (FIRST, [wait_s])


async def test_a_date_the_server_names_that_is_far_off_leads_to_the_next_model(mock_openai: MockOpenAI):
    mock_openai.queue(
        FIRST, Script(fault=Fault.UNAVAILABLE, retry_after=formatdate(4_000_000_000, usegmt=True))
    )
    time = Time()
    async with on(mock_openai, time) as asked:
        reply = await ask(asked, time, None)
    assert (reply.model, time.waits) == (SECOND, [])


async def test_a_named_time_that_does_not_fit_leads_to_the_next_model_at_once(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(fault=Fault.RATE_LIMITED, retry_after="6"))
    time = Time()
    async with on(mock_openai, time) as asked:
        reply = await ask(asked, time, 10.0)
    # 9.5 s are left for two: 6 s would take the second one's share.
    assert (reply.model, time.waits) == (SECOND, [])


async def test_the_last_model_may_wait_with_all_the_time_that_is_left(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(fault=Fault.RATE_LIMITED, retry_after="6"))
    time = Time()
    async with on(mock_openai, time, jitter=0.0, fallback_models=()) as asked:
        reply = await ask(asked, time, 10.0)
    assert (reply.model, time.waits) == (FIRST, [6.0])


async def test_no_wait_goes_past_the_deadline(mock_openai: MockOpenAI):
    mock_openai.always(BUSY)
    time = Time()
    async with on(mock_openai, time) as asked:
        failure = await ask(asked, time, 1.6)
    assert isinstance(failure, ModelFailure)
    # 1.1 s for two: a wait of 0.5 s fits in the first one's 0.55, none of 1.0 s in anything after it.
    assert time.waits == [0.5, 0.5]
    assert time.now < 1001.1


async def test_all_of_it_ends_within_a_minute(mock_openai: MockOpenAI):
    mock_openai.always(Script(fault=Fault.RATE_LIMITED, retry_after="25"))
    time = Time()
    async with on(mock_openai, time, jitter=0.0) as asked:
        failure = await ask(asked, time, None)
    assert isinstance(failure, ModelFailure)
    assert time.now - 1000 <= 60
    assert time.waits == [25.0, 25.0]


@pytest.mark.parametrize(
    ("fault", "should", "tries"),
    [
        (Fault.UNAVAILABLE, "false", 1),
        (Fault.RATE_LIMITED, "false", 1),
        (Fault.BAD_REQUEST, "true", 3),
        (Fault.QUOTA, "true", 3),
    ],
)
async def test_the_server_may_say_whether_to_ask_again(
    mock_openai: MockOpenAI, fault: Fault, should: str, tries: int
):
    mock_openai.always(Script(fault=fault, headers={"x-should-retry": should}), FIRST)
    time = Time()
    async with on(mock_openai, time) as asked:
        await ask(asked, time, None)
    assert len(mock_openai.asked(FIRST)) == tries


async def test_nothing_is_asked_once_the_time_is_over(mock_openai: MockOpenAI):
    time = Time()
    async with on(mock_openai, time) as asked:
        failure = await ask(asked, time, 0.4)
    assert isinstance(failure, ModelFailure)
    assert {attempt.error_kind for attempt in failure.attempts} == {ErrorKind.OUT_OF_TIME}
    assert mock_openai.total == 0


async def test_a_slow_first_model_leaves_the_fallback_its_share(mock_openai: MockOpenAI):
    """On the real clock: the first never answers, and the second still has half of the time."""
    mock_openai.always(Script(fault=Fault.NEVER_ANSWERS), FIRST)
    mock_openai.always(Script(delay_s=0.3), SECOND)
    async with models(mock_openai) as asked:
        with deadline.budget(5):
            reply = await asked.complete(request(), reserve_s=1)
            left_s = deadline.remaining()
    assert reply.model == SECOND
    assert left_s is not None
    assert left_s > 1
