"""A caller that goes at any moment leaves nothing behind: no place, no hold, no connection, no task."""

import asyncio
from typing import Any

import pytest

from services.agents.llm import Attempt, ModelFailure, ModelReply
from services.mesh.breaker import State
from tests.integration.llm_rig import FIRST, RIGHT, SCHEMA, Book, models, request, responses, settled_loop
from tests.mock_openai import Fault, MockOpenAI, Script

GUARD_S = 20.0


async def step() -> None:
    await asyncio.sleep(0)


def others() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", [None, Fault.UNAVAILABLE, Fault.SLOW_DRIP, Fault.RESET_MIDWAY])
async def test_a_cancellation_at_any_step_leaves_nothing_behind(
    mock_openai: MockOpenAI, fault: Fault | None, streamed: bool
):
    """Cancels after 0, 1, 2 … turns of the loop, until the call is through before it is cancelled."""
    script = Script(text=RIGHT, fault=fault, piece_delay_s=0.0)
    mock_openai.always(Script(text=RIGHT))
    cancelled = 0
    async with models(mock_openai, max_concurrent_calls=1) as asked:
        turns = 0
        while True:
            mock_openai.queue(FIRST, script)
            book = Book(before_reserve=step, before_settle=step)
            task = asyncio.create_task(
                asked.complete(request(schema=SCHEMA), ledger=book, on_text=_ignore if streamed else None)
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            cancelled += 1
            while asked._finishing:
                await asyncio.sleep(0)
            assert book.is_even()
            assert (asked.slots.taken, asked.slots.waiting) == (0, 0)
            await mock_openai.idle()
            mock_openai._queued.clear()
            asked._breakers.clear()
            # One by one while the client works, in longer steps while it waits for the server.
            turns += 1 + turns // 50
        assert isinstance(task.result(), ModelReply)
        assert book.is_even()
    assert cancelled > 5
    await settled_loop()
    assert others() == []


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", [Fault.NEVER_ANSWERS, Fault.STALLS_MIDWAY])
async def test_a_cancelled_call_closes_its_connection_at_once(
    mock_openai: MockOpenAI, fault: Fault, streamed: bool
):
    mock_openai.always(Script(text=RIGHT, fault=fault))
    book = Book()
    async with models(mock_openai) as asked:
        kept = responses(asked)
        tasks = [
            asyncio.create_task(asked.complete(request(), ledger=book, on_text=_ignore if streamed else None))
            for _ in range(20)
        ]
        await mock_openai.until(lambda: mock_openai.under_way == 20)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert book.is_even()
        assert all(response.is_closed for response in kept)
        # While the client lives: it is the call that closes them.
        await mock_openai.until(lambda: mock_openai.open_connections == 0)
        await mock_openai.idle()
        assert mock_openai.abandoned == 20


async def test_the_caller_may_be_cancelled_twice(mock_openai: MockOpenAI):
    """The second time while what it took is settled: that goes on to its end."""
    mock_openai.always(Script(fault=Fault.NEVER_ANSWERS))
    may_settle, settling = asyncio.Event(), asyncio.Event()

    async def before_settle() -> None:
        settling.set()
        await may_settle.wait()

    book = Book(before_settle=before_settle)
    async with models(mock_openai) as asked:
        task = asyncio.create_task(asked.complete(request(), ledger=book))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        task.cancel()
        await settling.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not book.is_even()
        may_settle.set()
    assert book.is_even()


async def test_what_may_have_been_billed_is_settled_when_the_caller_goes(mock_openai: MockOpenAI):
    mock_openai.always(Script(text="x" * 400, fault=Fault.STALLS_MIDWAY, piece_chars=40))
    book, told = Book(), []
    async with models(mock_openai) as asked:
        task = asyncio.create_task(asked.complete(request(), ledger=book, on_text=told.append))
        async with asyncio.timeout(GUARD_S):
            while not told:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    [(_, nano_usd, tokens)] = book.settled
    sent = int(mock_openai.requests[0].headers["content-length"])
    assert tokens >= sent // 4 + len("".join(told)) // 4
    assert nano_usd > 0


async def test_who_gives_up_hears_what_was_tried_and_may_have_been_billed(mock_openai: MockOpenAI):
    mock_openai.queue(FIRST, Script(fault=Fault.UNAVAILABLE), Script(fault=Fault.NEVER_ANSWERS))
    heard: list[Attempt] = []
    book = Book()
    async with models(mock_openai) as asked:
        task = asyncio.create_task(
            asked.complete(request(), ledger=book, on_given_up=lambda attempts: heard.extend(attempts))
        )
        await mock_openai.until(lambda: mock_openai.total == 2 and mock_openai.under_way == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [(one.error_kind, one.sent) for one in heard] == [("server_error", True), ("given_up", True)]
    assert [cost for _, cost, _ in book.settled] == [one.cost_nano_usd for one in heard]
    assert heard[1].tokens.input > 0


async def test_a_ledger_that_fails_to_settle_harms_no_caller(mock_openai: MockOpenAI):
    async def fails() -> None:
        raise OSError("the store is away")

    async with models(mock_openai) as asked:
        reply = await asked.complete(request(), ledger=Book(before_settle=fails))
    assert reply.text


async def test_without_its_ledger_no_model_is_asked(mock_openai: MockOpenAI):
    async def fails() -> None:
        raise OSError("the store is away")

    async with models(mock_openai) as asked:
        with pytest.raises(ModelFailure, match="internal error"):
            await asked.complete(request(), ledger=Book(before_reserve=fails))
    assert mock_openai.total == 0


async def test_a_ledger_that_hangs_is_not_the_models_fault(mock_openai: MockOpenAI):
    book = Book(before_reserve=asyncio.Event().wait)
    async with models(mock_openai, fallback_models=()) as asked:
        for _ in range(6):
            with pytest.raises(ModelFailure, match="internal error"):
                await asked.complete(request(timeout_s=0.03), ledger=book)
        assert asked.breaker(FIRST).state is State.CLOSED
        assert asked.slots.taken == 0
    assert (mock_openai.total, book.reserved) == (0, 0)


@pytest.mark.parametrize("where", ["on_text", "on_restart"])
async def test_what_the_callers_function_raises_ends_the_call_and_comes_back(
    mock_openai: MockOpenAI, where: str
):
    class MineError(Exception):
        pass

    def raises(*_: object) -> None:
        raise MineError

    mock_openai.always(Script(text=RIGHT * 50, fault=Fault.RESET_MIDWAY if where == "on_restart" else None))
    book = Book()
    async with models(mock_openai) as asked:
        with pytest.raises(MineError):
            await asked.complete(request(), ledger=book, **{"on_text": _ignore, where: raises})
        assert book.is_even()
        assert asked.slots.taken == 0
        assert asked.breaker(FIRST).failures == (1 if where == "on_restart" else 0)
    assert mock_openai.total == 1


def _ignore(_: str) -> None:
    pass
