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
from tests.mock_openai import Call

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
    # What the engines say is there, whatever the models do.
    match cell.task:
        case "explain_eta":
            assert seen.answer.prediction.delivery_eta_minutes > 0
        case "explain_route":
            assert [stop.order_id for stop in seen.answer.plan.stops] == [agents.order] * 2
        case "plan_delivery":
            (plan,) = seen.answer.plans
            assert plan.allocation.assigned_driver_id
            assert plan.prediction.delivery_eta_minutes > 0
            assert seen.answer.routes

    # What was spent is told, failures included.
    usage = seen.answer.usage
    assert usage.model_calls > 0
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
    assert len(steps) == usage.model_calls
    assert sum(step.input_tokens for step in steps) == usage.input_tokens

    # Nothing is left behind.
    await agents.server.idle()

    # All that the server was asked is told, and nothing else; what ran out of time may not have come to it.
    asked = len(agents.server.asked(first)) + len(agents.server.asked(second))
    late = [step for step in steps if step.error.message.startswith("timeout:")]
    assert asked <= usage.model_calls <= asked + len(late)


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
@pytest.mark.parametrize("hard", HARD)
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


# What no message can hold, in a call of a tool; the tool refuses it, and the model goes on.
ODD = {
    "half a character": Call("get_order", r'{"order_id":"\ud800"}'),
    "half a character as a name": Call("get_order", r'{"\ud800":"x"}'),
    "a number of 401 digits": Call("get_order", '{"order_id":1' + "0" * 400 + "}"),
    "3000 lists": Call("get_order", '{"order_id":' + "[" * 3_000 + "]" * 3_000 + "}"),
    "15000 lists": Call("get_order", '{"order_id":' + "[" * 15_000 + "]" * 15_000 + "}"),
    "a tool called half a character": Call("\ud800"),
}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("odd", ODD)
async def test_a_call_of_a_tool_that_no_message_can_hold_costs_nobody_the_answer(
    agents: Faulty, odd: str, streamed: bool
):
    agent = f"odd-{odd}-{streamed}".replace(" ", "-").lower()
    seen = await agents.say(agent, RIGHT_TEXT, streamed=streamed, calls=(ODD[odd],))
    assert seen.text == RIGHT_TEXT
    assert seen.degradation is None
    run = await agents.stored(seen)
    assert run.answer == seen.text
    assert [step.HasField("error") for step in run.steps] == [False, True, False]
    assert not run.steps[1].arguments.fields


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Hi \ud800 there, all is well.", "Hi \ufffd there, all is well."),
        ("All is\0 well.\x1b", "All is well."),
    ],
    ids=["half-a-character", "controls"],
)
async def test_a_text_is_told_and_kept_without_what_no_message_can_hold(
    agents: Faulty, said: str, told: str, streamed: bool
):
    agent = f"odd-text-{len(said)}-{streamed}".lower()
    seen = await agents.say(agent, said, streamed=streamed)
    assert (seen.text, seen.degradation) == (told, None)
    assert (await agents.stored(seen)).answer == told


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_blanks_are_no_answer(agents: Faulty, streamed: bool):
    seen = await agents.say(f"blank-{streamed}".lower(), " \n \t ", streamed=streamed)
    assert seen.degradation.source == "agents.engine"
    assert seen.text.strip()
