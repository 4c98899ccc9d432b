"""What a stream tells of tools: each use before its result, under one step, with a model and without."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import run_pb2, task_pb2

from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.mock_openai import Call, MockOpenAI, Script

on_one_mesh = pytest.mark.asyncio(loop_scope="module")
_LIMIT_S = 20.0
_QUESTION = "Where are order_0 and order_1, and where is order nobodys-7?"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AgentsMesh]:
    async with agents_mesh(module_database, tmp_path_factory.mktemp("agents")) as alone:
        await alone.seed(2)
        yield alone


async def told(mesh: AgentsMesh, **start: Any) -> list[pb.StreamRunResponse]:
    request = pb.StreamRunRequest(**start)
    return [event async for event in mesh.stub.StreamRun(request, timeout=_LIMIT_S)]


def told_in_order(events: Sequence[pb.StreamRunResponse]) -> tuple[list[int], list[int]]:
    """The steps of the uses and of the results, no result before its use and none under another's name."""
    begun: dict[int, str] = {}
    ended: list[int] = []
    for event in events:
        if event.HasField("tool_call"):
            assert event.tool_call.step not in begun
            begun[event.tool_call.step] = event.tool_call.name
        elif event.HasField("tool_result"):
            assert begun[event.tool_result.step] == event.tool_result.name
            assert event.tool_result.step not in ended
            ended.append(event.tool_result.step)
    return list(begun), ended


def without_text(events: Sequence[pb.StreamRunResponse]) -> list[pb.StreamRunResponse]:
    """The text that was there all along comes in fewer pieces."""
    return [event for event in events if not event.HasField("token")]


async def run_of(mesh: AgentsMesh, events: Sequence[pb.StreamRunResponse]) -> run_pb2.Run:
    found = await mesh.stub.GetRun(pb.GetRunRequest(run_id=events[-1].run_id))
    run: run_pb2.Run = found.run
    return run


@on_one_mesh
async def test_without_a_model_each_use_of_a_tool_is_told_before_its_result(mesh: AgentsMesh) -> None:
    events = await told(mesh, ask=task_pb2.AskRequest(question=_QUESTION))
    begun, ended = told_in_order(events)
    assert begun == sorted(begun)
    assert sorted(ended) == begun
    assert len(begun) >= 3
    run = await run_of(mesh, events)
    assert {step.step: step.name for step in run.steps if step.kind == run_pb2.STEP_KIND_TOOL} == {
        event.tool_call.step: event.tool_call.name for event in events if event.HasField("tool_call")
    }
    for event in events:
        if event.HasField("tool_call"):
            assert run.steps[event.tool_call.step - 1].arguments == event.tool_call.arguments
        elif event.HasField("tool_result"):
            assert run.steps[event.tool_result.step - 1].result == event.tool_result.result
            assert run.steps[event.tool_result.step - 1].error == event.tool_result.error


@on_one_mesh
async def test_uses_that_end_in_any_order_are_evidence_in_the_order_of_steps(mesh: AgentsMesh) -> None:
    events = await told(mesh, ask=task_pb2.AskRequest(question=_QUESTION))
    run = await run_of(mesh, events)
    given = [(step.name, step.result) for step in run.steps if step.HasField("result")]
    assert [(one.source, one.result) for one in events[-1].result.ask.evidence] == given


@on_one_mesh
async def test_a_stream_goes_on_behind_every_event_of_a_tool(mesh: AgentsMesh) -> None:
    events = await told(mesh, ask=task_pb2.AskRequest(question=_QUESTION))
    assert sum(event.HasField("tool_call") for event in events) >= 3
    for place, event in enumerate(events[:-1], start=1):
        assert await told(mesh, cursor=event.cursor) == events[place:]


async def test_a_model_s_uses_have_the_steps_of_their_results(
    mock_openai: MockOpenAI, database: str, tmp_path: Path
) -> None:
    asked = [Call("get_order", f'{{"order_id":"order_{n}"}}', f"call_{n}") for n in range(2)]
    mock_openai.queue("first", Script(calls=tuple(asked)))
    mock_openai.queue("first", Script(text="They are both on their way."))
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed(2)
        events = await told(mesh, ask=task_pb2.AskRequest(question="Where are order_0 and order_1?"))
        begun, ended = told_in_order(events)
        run = await run_of(mesh, events)
        for place, event in enumerate(events, start=1):
            if event.HasField("tool_call"):
                assert without_text(await told(mesh, cursor=event.cursor)) == without_text(events[place:])
    # The first step is the model's.
    assert (begun, ended) == ([2, 3], [2, 3])
    assert [step.name for step in run.steps] == ["first", "get_order", "get_order", "first"]
