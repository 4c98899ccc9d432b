"""Every fault of a model, over the real mesh: each ends in a right answer or a degraded one that says so."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from waymesh.agent.v1 import run_pb2

from tests.integration.agent_faults_rig import (
    CELLS,
    FAULTY_TEXT,
    RIGHT_TEXT,
    ROUNDS,
    TOLD_FIRST,
    Cell,
    Faulty,
    faulty,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agents(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faulty]:
    folder: Path = tmp_path_factory.mktemp("agents")
    async with faulty(module_database, folder) as made:
        yield made


@pytest.mark.parametrize("cell", CELLS, ids=str)
async def test_a_fault_ends_in_a_right_answer_or_a_degraded_one_that_says_so(agents: Faulty, cell: Cell):
    seen = await agents.run(cell)
    first, second = cell.models

    # An answer there is, whatever happened, and it says what it is.
    assert seen.text
    assert seen.degradation is not None
    assert first in seen.degradation.reason or cell.fault in ROUNDS
    if seen.degradation.source == "agents.fallback_model":
        assert not cell.both
        assert seen.text == cell.right
        assert seen.answer.usage.model == second
    else:
        assert seen.degradation.source == "agents.engine"
        assert cell.both or cell.fault in ROUNDS
        assert seen.text not in (cell.right, FAULTY_TEXT)
        assert second in seen.degradation.reason or cell.fault in ROUNDS
    if cell.rpc == "ExplainEta":
        assert seen.answer.prediction.delivery_eta_minutes > 0

    # What was spent is told, failures included.
    usage = seen.answer.usage
    asked = len(agents.server.asked(first)) + len(agents.server.asked(second))
    assert usage.model_calls == asked > 0
    assert (usage.cost_usd > 0) == (usage.input_tokens > 0)

    # All of a stream belongs to one answer.
    if seen.events:
        assert seen.events[0] == "accepted"
        assert [kind for kind in seen.events if kind in ("result", "error")] == ["result"]
        if seen.streamed:
            assert seen.tokens == seen.text
        one_text = (FAULTY_TEXT, RIGHT_TEXT, seen.text)
        assert any(text.startswith(seen.tokens) for text in one_text)
        if cell.fault in TOLD_FIRST and not cell.shaped:
            assert seen.tokens
            assert not seen.streamed

    # What is stored is what was answered.
    run = await agents.stored(seen)
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
    assert run.answer == seen.text
    assert run.degradation == seen.degradation
    assert run.usage == usage
    if cell.shaped:
        assert run.HasField("output") == seen.answer.HasField("output")
        assert run.output == seen.answer.output
    steps = [step for step in run.steps if step.kind == run_pb2.STEP_KIND_MODEL]
    assert len(steps) == asked
    assert sum(step.input_tokens for step in steps) == usage.input_tokens

    # Nothing is left behind.
    await agents.server.idle()


# What is hard to read, or too long to be an answer; none may hold up the process, nor fail a run.
HARD = {
    "one word": "x" * 200_000,
    "hyphens": "a-" * 20_000,
    "number words": "hundred " * 2_000,
    "an exponent": "It takes 1e999 minutes.",
    "digits": "9" * 50_000,
    "numbers": "1," * 20_000,
    "clocks": "10:" * 20_000,
    "pages": "All is well. " * 60_000,
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("hard", [one for one in HARD if one != "hyphens"])
async def test_an_answer_that_is_hard_to_read_is_none_and_takes_no_time(
    agents: Faulty, hard: str, streamed: bool
):
    agent = f"{hard}-{streamed}".replace(" ", "-").lower()
    seen = await agents.say(agent, HARD[hard], streamed=streamed)
    assert seen.text
    assert seen.degradation.source == "agents.engine"
    assert HARD[hard].strip() not in seen.text
    assert not seen.streamed
    assert HARD[hard].startswith(seen.tokens)
    run = await agents.stored(seen)
    assert run.status == run_pb2.RUN_STATUS_SUCCEEDED
