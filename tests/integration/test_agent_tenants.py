"""Tenants on one mesh: runs, agents and cached answers of one are nothing to another."""

from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as registry_pb
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import definition_pb2, task_pb2
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_AGENT_UNKNOWN, ERROR_REASON_RUN_UNKNOWN

from services.mesh.errors import MeshError, NotFound
from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.integration.injection_rig import on_behalf_of
from tests.mock_openai import MockOpenAI, Script

OURS, THEIRS = "acme", "rival"
LIMIT_S = 20.0


async def unknown(call: Any, reason: int) -> None:
    """The call is refused as if there were nothing."""
    with pytest.raises(MeshError) as raised:
        await call
    assert isinstance(raised.value, NotFound)
    assert raised.value.reason == reason


async def events(mesh: AgentsMesh, request: pb.StreamRunRequest) -> list[pb.StreamRunResponse]:
    return [event async for event in mesh.stub.StreamRun(request, timeout=LIMIT_S)]


async def test_a_run_is_known_to_its_tenant_alone(database: str, tmp_path: Path, mock_openai: MockOpenAI):
    mock_openai.always(Script(text="All is well."))
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        stub = mesh.stub
        ask = task_pb2.AskRequest(question="Is all well?", run_id="the-run")
        with on_behalf_of(OURS):
            told = await events(mesh, pb.StreamRunRequest(ask=ask))
        with on_behalf_of(THEIRS):
            await unknown(stub.GetRun(pb.GetRunRequest(run_id="the-run")), ERROR_REASON_RUN_UNKNOWN)
            await unknown(stub.CancelRun(pb.CancelRunRequest(run_id="the-run")), ERROR_REASON_RUN_UNKNOWN)
            for event in told:
                cursor = pb.StreamRunRequest(cursor=event.cursor)
                await unknown(events(mesh, cursor), ERROR_REASON_RUN_UNKNOWN)
            assert not (await stub.ListRuns(pb.ListRunsRequest())).runs
            # Its own run of that name is another one.
            own = await stub.Ask(ask, timeout=LIMIT_S)
            assert own.run_id == "the-run"
            assert len((await stub.ListRuns(pb.ListRunsRequest())).runs) == 1
        with on_behalf_of(OURS):
            (run,) = (await stub.ListRuns(pb.ListRunsRequest())).runs
            assert run.run_id == "the-run"
            assert run.created_at == (await stub.GetRun(pb.GetRunRequest(run_id="the-run"))).run.created_at


async def test_an_answer_is_cached_for_its_tenant_alone(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    mock_openai.always(Script(text="All is well."))
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        ask = task_pb2.AskRequest(question="Is all well?")
        for tenant, cached, asked in ((OURS, 0, 1), (OURS, 1, 1), (THEIRS, 0, 2), (THEIRS, 1, 2)):
            with on_behalf_of(tenant):
                answer = await mesh.stub.Ask(ask, timeout=LIMIT_S)
            assert answer.answer == "All is well."
            assert answer.usage.cached_answers == cached
            assert answer.usage.model_calls == 1 - cached
            assert mock_openai.total == asked
        fresh = task_pb2.AskRequest(question="Is all well?", options=task_pb2.RunOptions(fresh=True))
        with on_behalf_of(OURS):
            assert (await mesh.stub.Ask(fresh, timeout=LIMIT_S)).usage.cached_answers == 0
        assert mock_openai.total == 3


async def test_an_agent_is_known_to_its_tenant_alone(database: str, tmp_path: Path, mock_openai: MockOpenAI):
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        spec = definition_pb2.AgentSpec(
            name="helper", instructions=definition_pb2.AgentInstructions(system="unmistakable")
        )
        with on_behalf_of(OURS):
            made = await mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))
        for name in ("helper", made.agent_id):
            request = task_pb2.RunTaskRequest(agent=name, task="Help.")
            with on_behalf_of(THEIRS):
                await unknown(mesh.stub.RunTask(request, timeout=LIMIT_S), ERROR_REASON_AGENT_UNKNOWN)
                stream = pb.StreamRunRequest(run_task=request)
                await unknown(events(mesh, stream), ERROR_REASON_AGENT_UNKNOWN)
            assert mock_openai.total == 0
        with on_behalf_of(OURS):
            await mesh.stub.RunTask(task_pb2.RunTaskRequest(agent="helper", task="Help."), timeout=LIMIT_S)
        assert "unmistakable" in str(mock_openai.requests[0].body)
