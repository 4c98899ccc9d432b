"""The fault matrix of the client: every fault, streamed and not, of the first and of the fallback model."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.agents.llm import ErrorKind, ModelFailure, ModelReply
from services.mesh import deadline
from services.mesh.deadline import remaining
from tests.integration.llm_rig import (
    FIRST,
    KEY,
    RIGHT,
    SCHEMA,
    SECOND,
    TOOL,
    Book,
    Pieces,
    models,
    request,
    responses,
    settled_loop,
)
from tests.mock_openai import Fault, MockOpenAI, Script

# A hang guard: the budget of a call, of which the client has to leave something.
BUDGET_S = 10.0
LIMIT_BYTES = 256 << 10

GOOD = Script(text=RIGHT)
# Every fault: what it is called, how often one model is asked, and whether text is told before it shows.
CELLS = {
    "429": (Script(fault=Fault.RATE_LIMITED), ErrorKind.RATE_LIMITED, 3, False),
    "429 with Retry-After": (
        Script(fault=Fault.RATE_LIMITED, retry_after="0.01"),
        ErrorKind.RATE_LIMITED,
        3,
        False,
    ),
    "429 with a long Retry-After": (
        Script(fault=Fault.RATE_LIMITED, retry_after="3600"),
        ErrorKind.RATE_LIMITED,
        1,
        False,
    ),
    "quota": (Script(fault=Fault.QUOTA), ErrorKind.QUOTA, 1, False),
    "500": (Script(fault=Fault.SERVER_ERROR), ErrorKind.SERVER_ERROR, 3, False),
    "503": (Script(fault=Fault.UNAVAILABLE), ErrorKind.SERVER_ERROR, 3, False),
    "an oversized error": (Script(fault=Fault.OVERSIZED_ERROR), ErrorKind.SERVER_ERROR, 3, False),
    "timeout": (Script(fault=Fault.NEVER_ANSWERS), ErrorKind.TIMEOUT, 3, False),
    "stall in mid-answer": (Script(text=RIGHT, fault=Fault.STALLS_MIDWAY), ErrorKind.TIMEOUT, 3, True),
    # Its text begins long before the time is over, and ends after it.
    "slow drip": (
        Script(text=RIGHT, fault=Fault.SLOW_DRIP, piece_delay_s=0.08, piece_chars=2),
        ErrorKind.TIMEOUT,
        3,
        True,
    ),
    "reset before": (Script(fault=Fault.RESET_BEFORE), ErrorKind.CONNECTION, 3, False),
    "reset in mid-answer": (Script(text=RIGHT, fault=Fault.RESET_MIDWAY), ErrorKind.CONNECTION, 3, True),
    "an early end": (Script(text=RIGHT, fault=Fault.ENDS_EARLY), ErrorKind.CONNECTION, 3, True),
    "malformed body": (Script(text=RIGHT, fault=Fault.MALFORMED_BODY), ErrorKind.MALFORMED, 3, True),
    "malformed reply": (Script(text='{"order_id": '), ErrorKind.MALFORMED, 3, True),
    "no choices": (Script(fault=Fault.NO_CHOICES), ErrorKind.MALFORMED, 3, False),
    "schema violation": (Script(fault=Fault.SCHEMA_VIOLATION), ErrorKind.SCHEMA_VIOLATION, 2, True),
    "oversized": (Script(fault=Fault.OVERSIZED), ErrorKind.OVERSIZED, 1, True),
    "cut short": (Script(text=RIGHT, fault=Fault.TRUNCATED), ErrorKind.TRUNCATED, 1, True),
    "content filter": (Script(text=RIGHT, fault=Fault.CONTENT_FILTER), ErrorKind.CONTENT_FILTER, 1, True),
    "refusal": (Script(fault=Fault.REFUSAL), ErrorKind.REFUSAL, 1, False),
    "error in the answer": (Script(text=RIGHT, fault=Fault.ERROR_CHUNK), ErrorKind.SERVER_ERROR, 3, True),
    "400": (Script(fault=Fault.BAD_REQUEST), ErrorKind.BAD_REQUEST, 1, False),
    "401": (Script(fault=Fault.UNAUTHORIZED), ErrorKind.UNAUTHORIZED, 1, False),
    "403": (Script(fault=Fault.FORBIDDEN), ErrorKind.UNAUTHORIZED, 1, False),
    "404": (Script(fault=Fault.NOT_FOUND), ErrorKind.NOT_FOUND, 1, False),
    "context too long": (Script(fault=Fault.CONTEXT_TOO_LONG), ErrorKind.CONTEXT_TOO_LONG, 1, False),
}
# What is billed for certain: an HTTP error is not, whatever else happened was or may have been.
UNBILLED = {"429", "429 with Retry-After", "429 with a long Retry-After", "quota", "500", "503", "400", "401",
            "403", "404", "an oversized error", "context too long"}  # fmt: skip

# Where the time of a call runs out, it is short; everywhere else it is never reached.
TIMEOUTS_S = {ErrorKind.TIMEOUT: 0.8}

cells = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.replace(" ", "_"))
streamed_or_not = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


async def ask(server: MockOpenAI, streamed: bool, timeout_s: float = BUDGET_S) -> tuple[Any, Book, Pieces]:
    """One question under a deadline; the failure where there is no reply. Checks what holds in every cell."""
    book, pieces = Book(), Pieces()
    outcome: ModelReply | ModelFailure
    async with models(server, max_answer_bytes=LIMIT_BYTES) as asked:
        kept = responses(asked)
        with deadline.budget(BUDGET_S):
            try:
                outcome = await asked.complete(
                    request(schema=SCHEMA, timeout_s=timeout_s),
                    ledger=book,
                    on_text=pieces.text if streamed else None,
                    on_restart=pieces.restart if streamed else None,
                )
            except ModelFailure as failure:
                outcome = failure
            left = remaining()
        assert left is not None
        assert left > 0
        assert all(response.is_closed for response in kept)
        assert book.is_even()
        assert asked.slots.taken == 0
        await server.idle()
    await settled_loop()
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    attempts = outcome.attempts if isinstance(outcome, ModelFailure) else outcome.failed
    spent = sum(cost for _, cost, _ in book.settled)
    assert outcome.cost_nano_usd == spent
    assert outcome.tokens.total == sum(tokens for _, _, tokens in book.settled)
    for attempt in attempts:
        assert KEY not in attempt.message
        assert "order" not in attempt.message
    return outcome, book, pieces


@streamed_or_not
@cells
async def test_a_fault_of_the_first_model_is_answered_by_the_fallback(
    mock_openai: MockOpenAI, cell: str, streamed: bool
):
    fault, kind, tries, told = CELLS[cell]
    mock_openai.always(fault, FIRST)
    mock_openai.always(GOOD, SECOND)
    reply, _, pieces = await ask(mock_openai, streamed, TIMEOUTS_S.get(kind, BUDGET_S))
    assert isinstance(reply, ModelReply)
    assert (reply.model, reply.text, reply.parsed) == (SECOND, RIGHT, {"order_id": "17", "minutes": 12.5})
    assert [attempt.error_kind for attempt in reply.failed] == [kind] * tries
    assert len(mock_openai.asked(FIRST)) == tries
    if streamed:
        # Pieces of one response: of the failed one with a restart, or of the good one without.
        assert (pieces.restarts, pieces.after_restart) == (int(told), 0)
        assert told or "".join(pieces.told) == RIGHT
    billed = [attempt.tokens.total > 0 for attempt in reply.failed]
    assert billed == [cell not in UNBILLED] * tries


@streamed_or_not
@cells
async def test_a_fault_of_both_models_is_a_failure_that_says_so_before_the_deadline(
    mock_openai: MockOpenAI, cell: str, streamed: bool
):
    fault, kind, tries, told = CELLS[cell]
    mock_openai.always(fault)
    failure, _, pieces = await ask(mock_openai, streamed, TIMEOUTS_S.get(kind, BUDGET_S))
    assert isinstance(failure, ModelFailure)
    assert failure.reason.startswith(f"{FIRST}: ")
    assert f"; {SECOND}: " in failure.reason
    assert [(each.model, each.error_kind) for each in failure.attempts] == [
        (model, kind) for model in (FIRST, SECOND) for _ in range(tries)
    ]
    if streamed:
        assert (pieces.restarts, pieces.after_restart) == (int(told), 0)


@streamed_or_not
@cells
async def test_a_fault_that_passes_is_answered_by_the_same_model(
    mock_openai: MockOpenAI, cell: str, streamed: bool
):
    fault, kind, tries, told = CELLS[cell]
    mock_openai.queue(FIRST, fault)
    mock_openai.always(GOOD)
    reply, _, pieces = await ask(mock_openai, streamed, TIMEOUTS_S.get(kind, BUDGET_S))
    assert isinstance(reply, ModelReply)
    assert reply.text == RIGHT
    assert reply.model == (FIRST if tries > 1 else SECOND)
    assert [attempt.error_kind for attempt in reply.failed] == [kind]
    if streamed:
        assert (pieces.restarts, pieces.after_restart) == (int(told), 0)
        assert told or "".join(pieces.told) == RIGHT


@streamed_or_not
@pytest.mark.parametrize("fault", [Fault.SLOW_DRIP, Fault.NO_USAGE, Fault.NEVER_ENDS, None])
async def test_what_is_odd_but_right_is_a_reply(mock_openai: MockOpenAI, fault: Fault | None, streamed: bool):
    mock_openai.always(replace(GOOD, fault=fault, piece_delay_s=0.001))
    reply, _, pieces = await ask(mock_openai, streamed)
    assert isinstance(reply, ModelReply)
    assert (reply.model, reply.text, reply.failed) == (FIRST, RIGHT, ())
    assert reply.tokens.estimated is (fault is Fault.NO_USAGE)
    assert reply.tokens.total > 0
    if streamed:
        assert ("".join(pieces.told), pieces.restarts) == (RIGHT, 0)


@streamed_or_not
@pytest.mark.parametrize("fault", [Fault.MALFORMED_ARGUMENTS, Fault.TOOL_LOOP])
async def test_tool_calls_are_handed_on_as_they_are(mock_openai: MockOpenAI, fault: Fault, streamed: bool):
    mock_openai.always(Script(fault=fault))
    async with models(mock_openai) as asked:
        reply = await asked.complete(
            request(tools=(TOOL,), schema=SCHEMA), on_text=(lambda _: None) if streamed else None
        )
    assert [use.name for use in reply.tool_uses] == ["get_order"]
    wanted = '{"origin": "A' if fault is Fault.MALFORMED_ARGUMENTS else "{}"
    assert [use.arguments for use in reply.tool_uses] == [wanted]
    assert reply.parsed is None


@streamed_or_not
@pytest.mark.parametrize("fault", [Fault.OVERSIZED, Fault.OVERSIZED_ERROR])
async def test_no_more_is_read_than_is_kept(mock_openai: MockOpenAI, fault: Fault, streamed: bool):
    """The mock has 64 MiB to say; what was not read fits in the buffers on the way."""
    mock_openai.always(Script(fault=fault, size_bytes=64 << 20))
    async with models(mock_openai, max_answer_bytes=LIMIT_BYTES, fallback_models=()) as asked:
        kept = responses(asked)
        with pytest.raises(ModelFailure):
            await asked.complete(request(), on_text=(lambda _: None) if streamed else None)
    for response in kept:
        assert response.num_bytes_downloaded < 8 << 20
        if fault is Fault.OVERSIZED_ERROR:
            assert len(response.content) <= 65_536
