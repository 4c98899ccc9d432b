"""What holds for all callers of a process together: places, budgets, breakers."""

import asyncio
from collections import Counter
from typing import cast

import pytest

from services.agents.budgets.account import Limit
from services.agents.budgets.ledger import Budgets, RunAccount
from services.agents.llm import ErrorKind, ModelFailure, ModelReply, asking
from services.mesh import deadline
from services.mesh.breaker import State
from services.mesh.errors import ResourceExhausted
from tests.integration.llm_rig import FIRST, PRICES, SECOND, Book, models, request
from tests.mock_openai import Fault, MockOpenAI, Script


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does much else takes longer for 200 calls than anybody would wait for a place."""
    monkeypatch.setattr(asking, "LONGEST_WAIT_S", 300.0)


DOWN = Script(fault=Fault.UNAVAILABLE)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("limit", [1, 7])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.usefixtures("patient")
async def test_200_callers_never_have_more_calls_under_way_than_allowed(
    mock_openai: MockOpenAI, limit: int, streamed: bool
):
    mock_openai.always(Script(delay_s=0.002))
    told = (lambda _: None) if streamed else None
    async with models(mock_openai, max_concurrent_calls=limit) as asked:
        replies = await asyncio.gather(*(asked.complete(request(), on_text=told) for _ in range(200)))
        assert (asked.slots.taken, asked.slots.waiting) == (0, 0)
    assert len(replies) == mock_openai.total == 200
    assert mock_openai.peak == limit
    assert mock_openai.open_connections <= limit


async def test_a_caller_that_gets_no_place_in_time_fails_before_its_deadline(mock_openai: MockOpenAI):
    mock_openai.always(Script(fault=Fault.NEVER_ANSWERS))
    async with models(mock_openai, max_concurrent_calls=1) as asked:
        first = asyncio.create_task(asked.complete(request()))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        with deadline.budget(0.4), pytest.raises(ModelFailure) as caught:
            await asked.complete(request(), reserve_s=0.1)
        assert caught.value.attempts[0].error_kind is ErrorKind.BUSY
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert asked.slots.taken == 0
    assert mock_openai.total == 1


async def test_nobody_waits_for_a_place_to_hear_that_a_model_is_left_alone(mock_openai: MockOpenAI):
    mock_openai.always(DOWN, FIRST)
    async with models(mock_openai, max_concurrent_calls=1, fallback_models=()) as asked:
        for _ in range(2):
            await asyncio.gather(asked.complete(request()), return_exceptions=True)
        mock_openai.always(Script(fault=Fault.NEVER_ANSWERS), SECOND)
        taker = asyncio.create_task(asked.complete(request(model=SECOND)))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        with pytest.raises(ModelFailure) as caught:
            await asked.complete(request())
        assert [each.error_kind for each in caught.value.attempts] == [ErrorKind.BREAKER_OPEN]
        taker.cancel()
        await asyncio.gather(taker, return_exceptions=True)


async def test_nothing_is_billed_by_a_server_that_is_not_there():
    server = MockOpenAI()
    await server.start()
    await server.close()
    book = Book()
    async with models(server) as asked:
        with pytest.raises(ModelFailure, match="connection failed") as caught:
            await asked.complete(request(), ledger=book)
    assert (caught.value.tokens.total, caught.value.cost_nano_usd) == (0, 0)
    assert book.is_even()


async def test_a_budget_holds_exactly_under_200_callers(mock_openai: MockOpenAI):
    mock_openai.always(Script(usage=(10, 5), delay_s=0.002))
    book = Book(limit=20_000_000)
    async with models(mock_openai, fallback_models=()) as asked:
        outcomes = await asyncio.gather(
            *(asked.complete(request(max_output_tokens=100), ledger=book) for _ in range(200)),
            return_exceptions=True,
        )
    assert sum(cost for _, cost, _ in book.settled) <= 20_000_000
    assert book.is_even()
    counts = Counter(type(outcome) for outcome in outcomes)
    assert counts[ModelReply] == len(book.settled) == mock_openai.total
    assert counts[ModelReply] + counts[ModelFailure] == 200
    assert counts[ModelFailure] > 0


async def test_a_budget_that_is_too_small_for_a_model_may_do_for_a_cheaper_one(mock_openai: MockOpenAI):
    first = PRICES.price(FIRST)
    assert first is not None
    book = Book(limit=2000 * first.output // 1000)  # the output alone; the second costs a fifth
    async with models(mock_openai) as asked:
        reply = await asked.complete(request(), ledger=book)
    assert (reply.model, [each.error_kind for each in reply.failed]) == (SECOND, [ErrorKind.BUDGET])
    assert mock_openai.asked(FIRST) == []


async def test_a_failure_by_budget_says_so_with_its_cause(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure, match="budget used up") as caught:
            await asked.complete(request(), ledger=Book(limit=0))
    assert isinstance(caught.value.__cause__, ResourceExhausted)
    assert [attempt.sent for attempt in caught.value.attempts] == [False, False]
    assert mock_openai.total == 0


async def test_a_failure_by_budget_names_the_budget_and_its_limit(mock_openai: MockOpenAI):
    run = RunAccount(cast(Budgets, None), "acme", "run-1", [], Limit(None, 10))
    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure) as caught:
            await asked.complete(request(), ledger=run)
    assert caught.value.reason == (
        f"{FIRST}: budget used up: the run's limit max_tokens; "
        f"{SECOND}: budget used up: the run's limit max_tokens"
    )


async def test_what_is_set_aside_covers_what_it_can_take(mock_openai: MockOpenAI):
    book = Book()
    async with models(mock_openai, fallback_models=()) as asked:
        mock_openai.always(Script(fault=Fault.NEVER_ANSWERS))
        task = asyncio.create_task(asked.complete(request(max_output_tokens=50), ledger=book))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        [(nano_usd, tokens)] = book.held.values()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await mock_openai.idle()
    sent = int(mock_openai.requests[0].headers["content-length"])
    assert sent <= tokens - 50 + 1
    assert nano_usd == 2000 * (tokens - 50) + 8000 * 50
    assert book.is_even()


async def test_a_model_of_unknown_price_is_passed_over_where_money_is_limited(mock_openai: MockOpenAI):
    book = Book()
    async with models(mock_openai, model="unheard-of") as asked:
        reply = await asked.complete(request(), ledger=book)
        assert [each.error_kind for each in reply.failed] == [ErrorKind.PRICE_UNKNOWN]
        reply = await asked.complete(request(), ledger=Book(limits_money=False))
        assert (reply.model, reply.cost_nano_usd, reply.failed) == ("unheard-of", 0, ())
        assert not reply.price_known
        reply = await asked.complete(request())
        assert reply.model == "unheard-of"


async def test_a_breaker_opens_on_the_fifth_failure_and_the_model_is_passed_over(mock_openai: MockOpenAI):
    mock_openai.always(DOWN, FIRST)
    async with models(mock_openai) as asked:
        for _ in range(2):
            await asked.complete(request())  # three tries, then two
        assert asked.breaker(FIRST).state is State.OPEN
        assert len(mock_openai.asked(FIRST)) == 5
        reply = await asked.complete(request())
    assert [each.error_kind for each in reply.failed] == [ErrorKind.BREAKER_OPEN]
    assert len(mock_openai.asked(FIRST)) == 5


@pytest.mark.usefixtures("patient")
async def test_an_outage_is_met_by_few_calls_however_many_ask(mock_openai: MockOpenAI):
    mock_openai.always(DOWN, FIRST)
    async with models(mock_openai, max_concurrent_calls=16) as asked:
        replies = await asyncio.gather(*(asked.complete(request()) for _ in range(200)))
    assert {reply.model for reply in replies} == {SECOND}
    # Those that were under way when the fifth failed, and no more.
    assert len(mock_openai.asked(FIRST)) <= 4 + 16


async def test_after_a_minute_one_probe_goes_to_the_model_and_closes_its_breaker(mock_openai: MockOpenAI):
    clock = Clock()
    mock_openai.queue(FIRST, *[DOWN] * 5)
    probed = asyncio.Event()
    mock_openai.always(Script(held=probed), FIRST)
    heard: list[State] = []
    async with models(mock_openai, clock=clock, on_breaker=lambda _, __, new: heard.append(new)) as asked:
        for _ in range(2):
            await asked.complete(request())
        clock.now += 60.0
        callers = [asyncio.create_task(asked.complete(request())) for _ in range(20)]
        await mock_openai.until(lambda: len(mock_openai.asked(SECOND)) == 2 + 19)
        probed.set()
        replies = await asyncio.gather(*callers)
        assert Counter(reply.model for reply in replies) == {FIRST: 1, SECOND: 19}
        assert (await asked.complete(request())).model == FIRST
    assert heard == [State.OPEN, State.HALF_OPEN, State.CLOSED]


async def test_a_cancelled_probe_lets_the_next_one_go(mock_openai: MockOpenAI):
    clock = Clock()
    mock_openai.queue(FIRST, *[DOWN] * 5, Script(fault=Fault.NEVER_ANSWERS))
    async with models(mock_openai, clock=clock) as asked:
        for _ in range(2):
            await asked.complete(request())
        clock.now += 60.0
        probe = asyncio.create_task(asked.complete(request()))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert (await asked.complete(request())).model == FIRST


@pytest.mark.parametrize(
    "fault", [Fault.BAD_REQUEST, Fault.UNAUTHORIZED, Fault.NOT_FOUND, Fault.REFUSAL, Fault.CONTENT_FILTER]
)
async def test_what_is_not_the_models_fault_does_not_open_its_breaker(mock_openai: MockOpenAI, fault: Fault):
    mock_openai.always(Script(fault=fault), FIRST)
    async with models(mock_openai) as asked:
        for _ in range(8):
            await asked.complete(request())
        assert asked.breaker(FIRST).state is State.CLOSED


async def test_breakers_of_any_number_of_names_are_kept_within_bounds(mock_openai: MockOpenAI):
    async with models(mock_openai) as asked:
        for _ in range(4):
            asked.breaker("bad").settle(asked.breaker("bad").admit(), ResourceExhausted("x"))
        for number in range(3000):
            asked.breaker(f"model-{number}")
        assert asked.breaker("bad").failures == 4
        assert len(asked._breakers) <= 1025
