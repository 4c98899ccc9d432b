"""Engines that are away or hang: an answer all the same, before the caller's deadline, and it says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import run_pb2, task_pb2
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.route.v1.route_service_pb2 import OptimizeRouteRequest

from services.agents.server import Agents
from services.agents.settings import AgentsSettings
from services.mesh.client import ClientFactory
from services.mesh.retry import RetryPolicy
from services.mesh.settings import load
from services.mesh.telemetry import Telemetry

NOBODY = "127.0.0.1:1"
BUDGET_S = 5.0

TASKS: dict[str, tuple[str, Any]] = {
    "ask": ("Ask", task_pb2.AskRequest(question="When does order_1 arrive?", run_id="r")),
    "explain_eta": ("ExplainEta", task_pb2.ExplainEtaRequest(query=EtaQuery(order_id="order_1"), run_id="r")),
    "explain_route": (
        "ExplainRoute",
        task_pb2.ExplainRouteRequest(route=OptimizeRouteRequest(driver_id="courier_1"), run_id="r"),
    ),
    "plan_delivery": (
        "PlanDelivery",
        task_pb2.PlanDeliveryRequest(order_ids=["order_1", "order_2"], run_id="r"),
    ),
    "run_task": (
        "RunTask",
        task_pb2.RunTaskRequest(agent="dispatcher", task="When does order_1 arrive?", run_id="r"),
    ),
}


@contextlib.asynccontextmanager
async def mute() -> AsyncIterator[str]:
    """A port that takes connections and says nothing."""
    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _reader, writer: held.append(writer), "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in held:
            writer.close()


@contextlib.asynccontextmanager
async def agents_alone(database: str, folder: Path, engines: str) -> AsyncIterator[Any]:
    settings = load(
        AgentsSettings,
        data_dir=folder,
        port=0,
        admin=0,
        drain_s=0.0,
        enable_outcome_logging=False,
        eta_target=engines,
        route_target=engines,
        feedback_target=engines,
    )
    service = Agents(settings, database)
    await service.start()
    clients = ClientFactory("test", telemetry=Telemetry("test"), retry=RetryPolicy(retries=0))
    try:
        yield clients.stub(AgentServiceStub, f"127.0.0.1:{service.server.port}")
    finally:
        await clients.close()
        await service.stop()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("hangs", [False, True], ids=["away", "hangs"])
async def test_an_answer_says_that_an_engine_did_not_answer(
    database: str, tmp_path: Path, task: str, hangs: bool
) -> None:
    rpc, request = TASKS[task]
    async with contextlib.AsyncExitStack() as stack:
        engines = await stack.enter_async_context(mute()) if hangs else NOBODY
        stub = await stack.enter_async_context(agents_alone(database, tmp_path, engines))

        # A passed deadline would raise.
        answer = await getattr(stub, rpc)(request, timeout=BUDGET_S)

        assert answer.degradation.source in ("agents.no_engine", "agents.engine")
        assert answer.degradation.reason
        text = next(
            getattr(answer, name)
            for name in ("answer", "explanation", "critique")
            if name in answer.DESCRIPTOR.fields_by_name
        )
        assert text
        stored = (await stub.GetRun(pb.GetRunRequest(run_id="r"))).run
        assert stored.status == run_pb2.RUN_STATUS_SUCCEEDED
        assert stored.answer == text
        assert any(step.HasField("error") for step in stored.steps)
