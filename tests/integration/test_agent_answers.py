"""Tasks of agents over the whole mesh: without a model, by the gateway, and with one that gets it wrong."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import run_pb2, task_pb2
from waymesh.eta.v1 import eta_pb2, eta_service_pb2

from services.mesh import json_codec
from tests.integration.agent_answers_rig import (
    TASKS,
    TEXTS,
    asked,
    request_for,
    strange_numbers,
    streamed,
)
from tests.integration.agents_rig import FALLBACK, MODEL, AgentsMesh, agents_mesh
from tests.integration.event_rig import begin
from tests.integration.gateway_rig import Rig, gateway
from tests.integration.route_mesh import order, stamp
from tests.mock_openai import Call, Fault, MockOpenAI, Script

on_one_mesh = pytest.mark.asyncio(loop_scope="module")
all_tasks = pytest.mark.parametrize("task", TASKS)
# What agents say where nothing is set up.
NO_MODEL = ("agents.engine", "no model is configured")


@dataclass
class Alone:
    """The mesh without a key, with a gateway before it, and two orders that wait."""

    mesh: AgentsMesh
    gateway: Rig
    orders: list[Any]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    folder: Path = tmp_path_factory.mktemp("agents")
    async with agents_mesh(module_database, folder) as mesh:
        await mesh.seed(2)
        orders = [order(f"order_{n}", ready_at=stamp(time.time() + 300)) for n in range(2)]
        async with gateway(agents_target=mesh.target, tracing=False) as before:
            yield Alone(mesh, before, orders)


@on_one_mesh
@all_tasks
async def test_without_a_model_each_task_is_answered_in_engines_numbers(alone: Alone, task: str):
    answer: Any = await asked(alone.mesh, task, request_for(task, alone.orders))
    text = getattr(answer, TEXTS[task])
    assert text
    assert (answer.degradation.source, answer.degradation.reason) == NO_MODEL
    assert any(char.isdigit() for char in text)
    sources = answer.evidence if task in ("ask", "run_task") else [answer]
    told = type(answer)()
    told.CopyFrom(answer)
    told.ClearField(TEXTS[task])
    assert strange_numbers(text, *(sources if task in ("ask", "run_task") else [told])) == []
    assert answer.usage.model_calls == 0
    assert answer.usage.cost_usd == 0

    found = await alone.mesh.stub.GetRun(pb.GetRunRequest(run_id=answer.run_id))
    run = found.run
    assert (run.task, run.status) == (task, run_pb2.RUN_STATUS_SUCCEEDED)
    assert (run.answer, run.degradation, run.usage) == (text, answer.degradation, answer.usage)
    assert all(step.kind != run_pb2.STEP_KIND_MODEL for step in run.steps)
    assert run.steps


@on_one_mesh
@all_tasks
async def test_without_a_model_a_stream_tells_the_same_at_its_end(alone: Alone, task: str):
    events = await streamed(alone.mesh, task, request_for(task, alone.orders))
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1]) == ("accepted", "result")
    assert kinds.count("result") == 1
    assert "token" not in kinds
    result = events[-1].result
    assert not result.streamed
    answer = getattr(result, task)
    assert (answer.degradation.source, answer.degradation.reason) == NO_MODEL
    assert getattr(answer, TEXTS[task])
    assert len({event.cursor for event in events}) == len(events)


@on_one_mesh
@all_tasks
async def test_without_a_model_each_task_is_answered_at_the_gateway(alone: Alone, task: str):
    parameters = _parameters(task, alone.orders)
    reply = await alone.gateway.client().task(task, parameters)
    assert reply.status == 200
    result = reply.json["result"]
    assert result[TEXTS[task]]
    assert (result["degradation"]["source"], result["degradation"]["reason"]) == NO_MODEL

    stream = await begin(alone.gateway.client(), {"task": task, "parameters": parameters})
    events = await stream.rest()
    assert (events[0].name, events[-1].name) == ("accepted", "result")
    last = events[-1].data["result"]
    assert last[task][TEXTS[task]]
    assert not last.get("streamed", False)


@on_one_mesh
async def test_a_run_begun_twice_under_one_name_is_one_run_at_the_gateway_too(alone: Alone):
    parameters = {"question": "When does order_0 arrive?", "run_id": "asked-once"}
    first = await alone.gateway.client().task("ask", parameters)
    again = await alone.gateway.client().task("ask", parameters)
    assert first.json["result"] == again.json["result"]
    other = await alone.gateway.client().task("ask", {**parameters, "question": "Where is order_1?"})
    assert (other.status, other.json["reason"]) == (409, "CONFLICTING_CONTENT")


def _parameters(task: str, orders: list[Any]) -> dict[str, Any]:
    return dict(json_codec.to_dict(request_for(task, orders)))


async def test_an_engines_figure_stands_where_a_model_puts_another(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed()
        predicted = await mesh.eta.PredictEta(
            eta_service_pb2.PredictEtaRequest(query=eta_pb2.EtaQuery(order_id="order_0"))
        )
        assert predicted.prediction.delivery.p90_minutes > predicted.prediction.delivery_eta_minutes

        def answer(body: dict[str, Any]) -> Script:
            tools = [message for message in body["messages"] if message["role"] == "tool"]
            if not tools:
                return Script(text="", calls=(Call("get_order", '{"order_id": "order_0"}'),))
            # The slow estimate where the expected one belongs: a number that an engine did give.
            told = json.loads(tools[0]["content"])["prediction"]
            said = {
                "order_id": "order_0",
                "pickup_eta_minutes": told["pickup_eta_minutes"],
                "delivery_eta_minutes": told["delivery"]["p90_minutes"],
                "confidence_score": told["confidence"],
                "factors": told["factors"],
            }
            return Script(text=json.dumps(said))

        mock_openai.answer_with(answer)
        request = task_pb2.RunTaskRequest(agent="eta", task="When does order_0 arrive?")
        seen = await mesh.stub.RunTask(request, timeout=20)
        assert not seen.HasField("degradation")
        (evidence,) = seen.evidence
        assert evidence.source == "get_order"
        engines = evidence.result["prediction"]
        assert seen.output["delivery_eta_minutes"] == engines["delivery_eta_minutes"]
        assert seen.output["delivery_eta_minutes"] != engines["delivery"]["p90_minutes"]
        assert json.loads(seen.answer)["delivery_eta_minutes"] == engines["delivery_eta_minutes"]


async def test_what_a_model_rounds_is_told_as_it_says_it(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        orders = await mesh.seed(2)
        said: list[dict[str, Any]] = []

        def answer(body: dict[str, Any]) -> Script:
            tools = [message for message in body["messages"] if message["role"] == "tool"]
            if not tools:
                calls = tuple(Call("get_order", json.dumps({"order_id": order})) for order in orders)
                return Script(text="", calls=calls)
            # Of both orders, and that of the second one.
            told = json.loads(tools[1]["content"])["prediction"]
            said[:] = [
                {
                    "order_id": told["order_id"],
                    "pickup_eta_minutes": round(told["pickup_eta_minutes"], 1),
                    "delivery_eta_minutes": round(told["delivery_eta_minutes"], 1),
                    "confidence_score": round(told["confidence"], 2),
                    "factors": [
                        {"name": one["name"], "minutes": round(one["minutes"], 2)} for one in told["factors"]
                    ],
                }
            ]
            return Script(text=json.dumps(said[0]))

        mock_openai.answer_with(answer)
        request = task_pb2.RunTaskRequest(agent="eta", task=f"When do {' and '.join(orders)} arrive?")
        seen = await mesh.stub.RunTask(request, timeout=20)
        assert not seen.HasField("degradation")
        assert json_codec.struct_to_dict(seen.output) == said[0]
        assert said[0]["order_id"] == orders[1]


@pytest.mark.parametrize("faulty", [False, True], ids=["first model", "fallback model"])
async def test_a_models_text_is_streamed_as_it_is_answered(
    database: str, tmp_path: Path, mock_openai: MockOpenAI, faulty: bool
):
    text = "The courier is close by and the kitchen is nearly done. " * 8
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed()
        # Slowly: what comes at once is told at once.
        mock_openai.always(Script(text=text.strip(), fault=Fault.SLOW_DRIP, piece_delay_s=0.01))
        if faulty:
            mock_openai.always(Script(fault=Fault.BAD_REQUEST), MODEL)
        events = await streamed(mesh, "explain_eta", request_for("explain_eta", []))
        result = events[-1].result
        assert result.streamed
        told = "".join(event.token.text for event in events)
        assert told == result.explain_eta.explanation == text.strip()
        assert sum(event.WhichOneof("event") == "token" for event in events) > 3
        answer = result.explain_eta
        assert answer.usage.model == (FALLBACK if faulty else MODEL)
        assert answer.degradation.source == ("agents.fallback_model" if faulty else "")


async def test_a_models_own_number_never_reaches_a_caller(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed()
        mock_openai.always(Script(text="It will be there in 777 minutes. " + "All is well with it. " * 20))
        events = await streamed(mesh, "explain_eta", request_for("explain_eta", []))
        answer = events[-1].result.explain_eta
        assert "777" not in answer.explanation
        assert "777" not in "".join(event.token.text for event in events)
        assert answer.degradation.source == "agents.engine"
        assert "numbers that no engine gave" in answer.degradation.reason
        # It was told what is wrong, once.
        assert len(mock_openai.asked(MODEL)) == 2
        assert "777" in mock_openai.asked(MODEL)[1].body["messages"][-1]["content"]
