"""Answers from the cache: only those that held when they were given, so that a slip is a slip of one run."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import task_pb2

from tests.integration.agent_answers_rig import request_for, streamed
from tests.integration.agents_rig import FALLBACK, MODEL, AgentsMesh, agents_mesh
from tests.mock_openai import Call, MockOpenAI, Script

LIMIT_S = 20.0
QUESTION = "Is all well with eta?"
SLIP = Script(text="It arrives in 777 minutes.")
RIGHT = "All is well."


@pytest_asyncio.fixture
async def mesh(database: str, tmp_path: Path, mock_openai: MockOpenAI) -> AsyncIterator[AgentsMesh]:
    async with agents_mesh(
        database, tmp_path, base_url=mock_openai.base_url, openai_fallback_models=()
    ) as made:
        yield made


async def ask(mesh: AgentsMesh, *, fresh: bool = False) -> Any:
    options = task_pb2.RunOptions(fresh=fresh)
    return await mesh.stub.Ask(task_pb2.AskRequest(question=QUESTION, options=options), timeout=LIMIT_S)


def slipped(answer: Any) -> bool:
    return answer.degradation.source == "agents.engine" and "777" not in answer.answer


def used(answer: Any) -> tuple[str, int, int]:
    """What was answered, by how many calls, and how many answers of the cache."""
    assert not answer.HasField("degradation")
    return answer.answer, answer.usage.model_calls, answer.usage.cached_answers


async def test_a_slip_is_one_runs_and_what_is_right_is_kept(mesh: AgentsMesh, mock_openai: MockOpenAI):
    mock_openai.queue(MODEL, SLIP, SLIP)
    mock_openai.always(Script(text=RIGHT))

    first = await ask(mesh)
    assert slipped(first)
    assert (first.usage.model_calls, first.usage.cached_answers) == (2, 0)
    assert used(await ask(mesh)) == (RIGHT, 1, 0)
    assert [used(await ask(mesh)) for _ in range(2)] == [(RIGHT, 0, 1)] * 2
    assert mock_openai.total == 3


async def test_who_is_put_right_is_asked_again_by_the_next(mesh: AgentsMesh, mock_openai: MockOpenAI):
    mock_openai.queue(MODEL, SLIP, Script(text="Put right."))
    mock_openai.always(Script(text=RIGHT))

    assert used(await ask(mesh)) == ("Put right.", 2, 0)
    assert used(await ask(mesh)) == (RIGHT, 1, 0)


async def test_what_was_fresh_is_kept(mesh: AgentsMesh, mock_openai: MockOpenAI):
    mock_openai.queue(MODEL, Script(text="Old."), Script(text="New."))

    assert used(await ask(mesh)) == ("Old.", 1, 0)
    assert used(await ask(mesh)) == ("Old.", 0, 1)
    assert used(await ask(mesh, fresh=True)) == ("New.", 1, 0)
    assert used(await ask(mesh)) == ("New.", 0, 1)


async def test_a_fresh_slip_leaves_the_kept_answer_as_it_is(mesh: AgentsMesh, mock_openai: MockOpenAI):
    mock_openai.queue(MODEL, Script(text=RIGHT), SLIP, SLIP)

    assert used(await ask(mesh)) == (RIGHT, 1, 0)
    assert slipped(await ask(mesh, fresh=True))
    assert used(await ask(mesh)) == (RIGHT, 0, 1)


async def test_nobody_who_asks_meanwhile_hears_a_slip(mesh: AgentsMesh, mock_openai: MockOpenAI):
    heard = asyncio.Event()
    mock_openai.queue(MODEL, SLIP, Script(text=SLIP.text, held=heard))
    mock_openai.always(Script(text=RIGHT))

    slipping = asyncio.create_task(ask(mesh))
    await mock_openai.until(lambda: mock_openai.total == 2)
    assert used(await ask(mesh)) == (RIGHT, 1, 0)
    heard.set()
    assert slipped(await slipping)
    assert used(await ask(mesh)) == (RIGHT, 0, 1)


async def test_uses_of_tools_are_kept_with_the_answer_they_led_to(mesh: AgentsMesh, mock_openai: MockOpenAI):
    call = Call("recent_outcomes", '{"agent_name": "eta", "status": null, "count": 5}')
    mock_openai.queue(MODEL, Script(text="", calls=(call,)), SLIP, SLIP)
    assert slipped(await ask(mesh))

    # What led to nothing is asked for anew.
    mock_openai.queue(MODEL, Script(text="", calls=(call,)))
    mock_openai.always(Script(text=RIGHT))
    assert used(await ask(mesh)) == (RIGHT, 2, 0)
    assert used(await ask(mesh)) == (RIGHT, 0, 2)


async def test_a_streamed_answer_is_kept_for_those_who_do_not_stream(
    mesh: AgentsMesh, mock_openai: MockOpenAI
):
    mock_openai.queue(MODEL, SLIP, SLIP)
    mock_openai.always(Script(text=RIGHT))

    async def told() -> Any:
        ask = task_pb2.AskRequest(question=QUESTION)
        events = [one async for one in mesh.stub.StreamRun(pb.StreamRunRequest(ask=ask), timeout=LIMIT_S)]
        text = "".join(one.token.text for one in events)
        assert "777" not in text
        return events[-1].result.ask

    assert slipped(await told())
    assert used(await told()) == (RIGHT, 1, 0)
    assert used(await ask(mesh)) == (RIGHT, 0, 1)
    assert used(await told()) == (RIGHT, 0, 1)


async def test_a_model_that_is_wrong_twice_is_followed_by_its_fallback(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    mock_openai.always(SLIP, MODEL)
    mock_openai.always(Script(text=RIGHT), FALLBACK)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed()
        answer = await ask(mesh)
        events = await streamed(mesh, "explain_eta", request_for("explain_eta", []))
    for one, text in ((answer, answer.answer), (events[-1].result.explain_eta, None)):
        assert (text or one.explanation) == RIGHT
        assert one.degradation.source == "agents.fallback_model"
        assert one.degradation.reason == f"{MODEL}: numbers that no engine gave"
        assert (one.usage.model, one.usage.model_calls) == (FALLBACK, 3)
    told = "".join(event.token.text for event in events)
    assert "777" not in told
    assert RIGHT.startswith(told)
