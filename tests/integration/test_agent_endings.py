"""How runs end before their answer: cancelled, left by who asked, or with the process that did them."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import run_pb2, task_pb2
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_RUN_CANCELLED

from services.mesh.errors import MeshError, Unavailable, from_rpc_error
from tests.integration.agents_rig import AgentsMesh, agents_mesh
from tests.integration.event_rig import begin
from tests.integration.gateway_rig import KEY, gateway
from tests.integration.route_mesh import eventually
from tests.mock_openai import Fault, MockOpenAI, Script
from tools.ports import free_ports

# A hang guard.
_LIMIT_S = 60.0
_RUN = "the-run"
_ASK = task_pb2.AskRequest(question="Is all well?", run_id=_RUN)
_SILENT = Script(fault=Fault.NEVER_ANSWERS)
_STALLED = Script(text="All is well with it. " * 40, fault=Fault.STALLS_MIDWAY)


async def run_of(stub: Any, run_id: str = _RUN) -> run_pb2.Run:
    """The run as it is recorded."""
    run: run_pb2.Run = (await stub.GetRun(pb.GetRunRequest(run_id=run_id), timeout=_LIMIT_S)).run
    return run


async def ended(stub: Any, run_id: str = _RUN) -> run_pb2.Run:
    """The run once it has ended."""

    async def look() -> run_pb2.Run | None:
        run = await run_of(stub, run_id)
        return None if run.status == run_pb2.RUN_STATUS_RUNNING else run

    found: run_pb2.Run = await eventually(look)
    return found


async def nobody_is_asked(server: MockOpenAI, abandoned: int = 1) -> None:
    """The model's caller has gone, and its connection with it."""
    await server.until(lambda: server.under_way == 0 and server.open_connections == 0)
    assert server.abandoned == abandoned


@pytest.mark.parametrize("script", [_SILENT, _STALLED], ids=["silent", "in mid-answer"])
async def test_cancel_run_ends_the_call_to_the_model_at_once(
    database: str, tmp_path: Path, mock_openai: MockOpenAI, script: Script
):
    mock_openai.always(script)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        unary = asyncio.create_task(mesh.stub.Ask(_ASK, timeout=_LIMIT_S))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        events = _reading(mesh, pb.StreamRunRequest(ask=_ASK))

        cancelled = await mesh.stub.CancelRun(pb.CancelRunRequest(run_id=_RUN), timeout=_LIMIT_S)
        await nobody_is_asked(mock_openai)

        assert not cancelled.duplicate
        assert cancelled.run.status == run_pb2.RUN_STATUS_CANCELLED
        with pytest.raises(MeshError) as raised:
            await unary
        assert raised.value.reason == ERROR_REASON_RUN_CANCELLED
        told = await events
        assert [event.WhichOneof("event") for event in told][-1] == "error"
        assert told[-1].error.status.code == grpc.StatusCode.CANCELLED.value[0]
        again = await mesh.stub.CancelRun(pb.CancelRunRequest(run_id=_RUN), timeout=_LIMIT_S)
        assert again.duplicate
        assert again.run == cancelled.run == await run_of(mesh.stub)
        assert mock_openai.total == 1


async def test_a_caller_that_hangs_up_ends_its_run(database: str, tmp_path: Path, mock_openai: MockOpenAI):
    mock_openai.always(_SILENT)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        unary = asyncio.create_task(mesh.stub.Ask(_ASK, timeout=_LIMIT_S))
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        unary.cancel()
        await nobody_is_asked(mock_openai)
        run = await ended(mesh.stub)
        assert run.status == run_pb2.RUN_STATUS_CANCELLED
        assert mock_openai.total == 1


async def test_a_caller_whose_time_is_over_gets_an_answer_before_that(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    mock_openai.always(_SILENT)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        answer = await mesh.stub.Ask(_ASK, timeout=5)
        assert answer.degradation.source == "agents.engine"
        await nobody_is_asked(mock_openai, mock_openai.total)
        assert (await run_of(mesh.stub)).status == run_pb2.RUN_STATUS_SUCCEEDED


async def test_a_reader_that_goes_away_ends_nothing_and_may_come_back(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    text = "All is well with it. " * 40
    mock_openai.always(Script(text=text.strip(), fault=Fault.SLOW_DRIP, piece_delay_s=0.03))
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        call = mesh.stub.StreamRun(pb.StreamRunRequest(ask=_ASK), timeout=_LIMIT_S)
        before: list[pb.StreamRunResponse] = []
        async for event in call:
            before.append(event)
            if event.WhichOneof("event") == "token":
                break
        call.cancel()
        assert before[0].WhichOneof("event") == "accepted"

        cursor = pb.StreamRunRequest(cursor=before[-1].cursor)
        after = [event async for event in mesh.stub.StreamRun(cursor, timeout=_LIMIT_S)]
        assert after[-1].WhichOneof("event") == "result"
        assert after[-1].result.streamed
        told = "".join(event.token.text for event in (*before, *after))
        assert told == after[-1].result.ask.answer == text.strip()
        assert (await run_of(mesh.stub)).answer == told
        assert (mock_openai.total, mock_openai.abandoned) == (1, 0)

        # Nothing more is told after the end.
        last = pb.StreamRunRequest(cursor=after[-1].cursor)
        assert [event async for event in mesh.stub.StreamRun(last, timeout=_LIMIT_S)] == []


async def test_who_hangs_up_at_the_gateway_ends_the_run_that_he_waited_for(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    mock_openai.always(_SILENT)
    async with (
        agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh,
        gateway(agents_target=mesh.target, tracing=False) as before,
    ):
        client = before.client()
        body = json.dumps({"task": "ask", "parameters": {"question": "Is all well?", "run_id": _RUN}})
        headers = {"Content-Type": "application/json", "X-API-Key": KEY}
        await client.send("POST", "/execute", body.encode(), headers)
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        await client.close()
        await nobody_is_asked(mock_openai)
        assert (await ended(mesh.stub)).status == run_pb2.RUN_STATUS_CANCELLED


async def test_who_leaves_a_stream_at_the_gateway_comes_back_to_the_run_that_went_on(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    text = "All is well with it. " * 40
    mock_openai.always(Script(text=text.strip(), fault=Fault.SLOW_DRIP, piece_delay_s=0.03))
    async with (
        agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh,
        gateway(agents_target=mesh.target, tracing=False) as before,
    ):
        asked = {"task": "ask", "parameters": {"question": "Is all well?", "run_id": _RUN}}
        client = before.client()
        stream = await begin(client, asked)
        seen = []
        while not seen or seen[-1].name != "token":
            event = await stream.event()
            assert event is not None
            seen.append(event)
        await client.close()
        again = await begin(before.client(), asked, headers={"Last-Event-ID": seen[-1].id})
        seen += await again.rest()
        assert [event.name for event in seen if event.name != "token"] == ["accepted", "result"]
        told = "".join(event.data["token"]["text"] for event in seen if event.name == "token")
        assert told == seen[-1].data["result"]["ask"]["answer"] == text.strip()
        assert (mock_openai.total, mock_openai.abandoned) == (1, 0)


@pytest.mark.faults
async def test_a_run_whose_process_is_killed_is_recorded_as_interrupted(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    mock_openai.always(_SILENT)
    ports = free_ports(2)
    processes = [await _start(database, tmp_path / str(port), port, mock_openai) for port in ports]
    channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
    try:
        doomed, other = (AgentServiceStub(channel) for channel in channels)
        for stub in (doomed, other):
            await stub.ListRuns(pb.ListRunsRequest(), timeout=_LIMIT_S, wait_for_ready=True)

        async def asked() -> Any:
            return await doomed.Ask(_ASK, timeout=_LIMIT_S)

        unary = asyncio.create_task(asked())
        await mock_openai.until(lambda: mock_openai.under_way == 1)
        assert (await run_of(other)).status == run_pb2.RUN_STATUS_RUNNING
        # Followed from the process that does not have it.
        reading = asyncio.create_task(_read(other, pb.StreamRunRequest(ask=_ASK)))

        processes[0].kill()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await unary
        assert isinstance(from_rpc_error(raised.value), Unavailable)
        await nobody_is_asked(mock_openai)

        run = await ended(other)
        assert run.status == run_pb2.RUN_STATUS_FAILED
        assert run.error.code == grpc.StatusCode.ABORTED.value[0]
        assert run.HasField("ended_at")
        assert "RUN_INTERRUPTED" in str(run.error)
        told = await reading
        kinds = [event.WhichOneof("event") for event in told]
        assert [kind for kind in kinds if kind != "heartbeat"] == ["accepted", "error"]
        assert told[-1].error.status == run.error
        # Who asks again under its name hears the same, and no model is asked again.
        with pytest.raises(grpc.aio.AioRpcError) as again:
            await other.Ask(_ASK, timeout=_LIMIT_S)
        assert "RUN_INTERRUPTED" in str(from_rpc_error(again.value).reason_name)
        assert mock_openai.total == 1
    finally:
        for channel in channels:
            await channel.close()
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _reading(mesh: AgentsMesh, request: pb.StreamRunRequest) -> "asyncio.Task[list[pb.StreamRunResponse]]":
    return asyncio.create_task(_read(mesh.stub, request))


async def _read(stub: Any, request: pb.StreamRunRequest) -> list[pb.StreamRunResponse]:
    return [event async for event in stub.StreamRun(request, timeout=_LIMIT_S)]


async def _start(dsn: str, folder: Path, port: int, models: MockOpenAI) -> asyncio.subprocess.Process:
    nobody = "127.0.0.1:1"
    environment = {
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_AGENTS_PORT": str(port),
        "WAYMESH_AGENTS_ADMIN_PORT": "0",
        "WAYMESH_ETA_TARGET": nobody,
        "WAYMESH_ROUTE_TARGET": nobody,
        "WAYMESH_FEEDBACK_TARGET": nobody,
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": models.base_url,
        "OPENAI_MODEL": "first",
        "ENABLE_OUTCOME_LOGGING": "false",
        "LOG_LEVEL": "ERROR",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.agents", env={**os.environ, **environment}
    )
