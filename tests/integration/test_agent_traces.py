"""What runs tell of themselves: spans by the conventions for generative AI, Langfuse, outcomes, metrics."""

import base64
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from pydantic import SecretStr
from waymesh.agent.v1 import task_pb2
from waymesh.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from waymesh.feedback.v1 import feedback_service_pb2 as feedback_pb
from waymesh.feedback.v1 import outcome_pb2

from tests.integration.agents_rig import FALLBACK, MODEL, agents_mesh
from tests.integration.route_mesh import eventually
from tests.mock_openai import Call, Fault, MockOpenAI, Script

# Stand in what the model is asked and what it says, and nowhere else.
ASKED, SAID, SECRET = "unmistakable-question", "unmistakable-answer", "hunter2-the-password"
LANGFUSE = "/api/public/otel/v1/traces"
COLLECTOR = "/v1/traces"


@dataclass(frozen=True)
class Told:
    """A span as it arrived."""

    name: str
    span_id: bytes
    parent: bytes
    trace_id: bytes
    attributes: dict[str, Any]


@dataclass
class Sink:
    """Takes OTLP on every path, and remembers where what came and with which headers."""

    base_url: str = ""
    spans: dict[str, list[Told]] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("content-encoding") == "gzip" and body[:2] == b"\x1f\x8b":
            body = gzip.decompress(body)
        self.headers[request.path] = {name.lower(): value for name, value in request.headers.items()}
        kept = self.spans.setdefault(request.path, [])
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    attributes = {one.key: _plain(one.value) for one in span.attributes}
                    kept.append(Told(span.name, span.span_id, span.parent_span_id, span.trace_id, attributes))
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    def of(self, path: str, operation: str) -> list[Told]:
        """The spans of one of the conventions' operations."""
        return [
            span
            for span in self.spans.get(path, [])
            if span.attributes.get("gen_ai.operation.name") == operation
        ]


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(one) for one in value.array_value.values]
    return None if kind is None else getattr(value, kind)


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    made = Sink()
    app = web.Application()
    app.router.add_post("/{path:.*}", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


def use_a_tool_and_answer(body: dict[str, Any]) -> Script:
    """The first model is out of order; its fallback looks an order up and answers."""
    if body["model"] == MODEL:
        return Script(fault=Fault.BAD_REQUEST)
    if any(message["role"] == "tool" for message in body["messages"]):
        return Script(text=f"It is well: {SAID}.", usage=(30, 7))
    return Script(text="", calls=(Call("get_order", '{"order_id": "order_0"}'),), usage=(20, 5))


async def traced(database: str, folder: Path, server: MockOpenAI, sunk: Sink, **settings: Any) -> Any:
    """One run, told to the sink; all spans have arrived when the mesh has stopped."""
    server.answer_with(use_a_tool_and_answer)
    async with agents_mesh(
        database,
        folder,
        base_url=server.base_url,
        otel_exporter_otlp_endpoint=sunk.base_url,
        **settings,
    ) as mesh:
        await mesh.seed()
        request = task_pb2.RunTaskRequest(agent="dispatcher", task=f"Is order_0 well? {ASKED}")
        request.input.update({"password": SECRET, "note": "leave it at the door"})
        # By a caller of its own, which begins no trace: the service does.
        async with grpc.aio.insecure_channel(mesh.target) as channel:
            return await AgentServiceStub(channel).RunTask(request, timeout=20)


async def test_a_run_is_a_trace_of_agent_model_and_tool_without_what_was_said(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with sink() as sunk:
        answer = await traced(database, tmp_path, mock_openai, sunk)

    (agent,) = sunk.of(COLLECTOR, "invoke_agent")
    chats = sunk.of(COLLECTOR, "chat")
    (tool,) = sunk.of(COLLECTOR, "execute_tool")
    assert agent.name == "invoke_agent dispatcher"
    assert agent.attributes["gen_ai.agent.name"] == "dispatcher"
    assert agent.attributes["gen_ai.agent.id"] == "dispatcher"
    assert agent.attributes["gen_ai.conversation.id"] == answer.run_id
    assert [chat.name for chat in chats] == [f"chat {MODEL}"] * 2
    for chat in chats:
        assert chat.attributes["gen_ai.provider.name"] == "openai"
        assert chat.attributes["gen_ai.request.model"] == MODEL
        assert chat.attributes["gen_ai.response.model"] == FALLBACK
    assert [chat.attributes["gen_ai.response.finish_reasons"] for chat in chats] == [["tool_calls"], ["stop"]]
    told = [
        (chat.attributes["gen_ai.usage.input_tokens"], chat.attributes["gen_ai.usage.output_tokens"])
        for chat in chats
    ]
    assert told == [(20, 5), (30, 7)]
    assert tool.name == "execute_tool get_order"
    assert tool.attributes["gen_ai.tool.name"] == "get_order"
    assert tool.attributes["gen_ai.tool.type"] == "function"

    # One trace: the call holds the agent's span, and that holds all others; what the tool asks is below it.
    spans = {span.span_id: span for span in sunk.spans[COLLECTOR]}
    assert {span.trace_id for span in (agent, *chats, tool)} == {agent.trace_id}
    assert spans[agent.parent].name.endswith("AgentService/RunTask")
    assert {span.parent for span in (*chats, tool)} == {agent.span_id}
    below = {span.name for span in spans.values() if span.parent == tool.span_id}
    assert below == {"waymesh.route.v1.RouteService/GetOrder", "waymesh.eta.v1.EtaService/PredictEta"}

    # Nothing of what was said, by anybody.
    for span in spans.values():
        for name, value in span.attributes.items():
            assert name not in ("gen_ai.input.messages", "gen_ai.output.messages")
            assert not any(word in str(value) for word in (ASKED, SAID, SECRET))


async def test_what_was_said_is_in_the_trace_where_that_is_asked_for_but_no_secret(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with sink() as sunk:
        await traced(database, tmp_path, mock_openai, sunk, capture_prompts=True)
    first, last = sunk.of(COLLECTOR, "chat")
    (tool,) = sunk.of(COLLECTOR, "execute_tool")
    assert ASKED in first.attributes["gen_ai.input.messages"]
    assert "leave it at the door" in first.attributes["gen_ai.input.messages"]
    assert SAID in last.attributes["gen_ai.output.messages"]
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"order_id": "order_0"}
    assert "delivery_eta_minutes" in tool.attributes["gen_ai.tool.call.result"]
    # The model was told it, as the caller wished; the trace is not.
    assert SECRET in json.dumps(mock_openai.requests[0].body)
    for span in sunk.spans[COLLECTOR]:
        assert SECRET not in str(span.attributes)


async def test_langfuse_is_sent_what_agents_models_and_tools_did_and_nothing_else(
    database: str, tmp_path: Path, mock_openai: MockOpenAI
):
    async with sink() as sunk:
        await traced(
            database,
            tmp_path,
            mock_openai,
            sunk,
            langfuse_host=sunk.base_url,
            langfuse_public_key="pk-lf-1",
            langfuse_secret_key=SecretStr("sk-lf-2"),
        )
    keys = base64.b64encode(b"pk-lf-1:sk-lf-2").decode()
    assert sunk.headers[LANGFUSE]["authorization"] == f"Basic {keys}"
    assert sunk.headers[LANGFUSE]["content-type"] == "application/x-protobuf"
    assert "authorization" not in sunk.headers[COLLECTOR]
    operations = sorted(span.attributes["gen_ai.operation.name"] for span in sunk.spans[LANGFUSE])
    assert operations == ["chat", "chat", "execute_tool", "invoke_agent"]
    # The collector has these, and the calls between services besides.
    assert {span.span_id for span in sunk.spans[LANGFUSE]} < {span.span_id for span in sunk.spans[COLLECTOR]}


@pytest.mark.parametrize("models", [False, True], ids=["engines", "a model"])
async def test_one_workflow_id_is_in_every_outcome_of_a_plan(
    database: str, tmp_path: Path, mock_openai: MockOpenAI, models: bool
):
    mock_openai.always(Script(text="A good plan.", usage=(40, 3)))
    base_url = mock_openai.base_url if models else None
    async with agents_mesh(database, tmp_path, base_url=base_url, enable_outcome_logging=True) as mesh:
        await mesh.seed(2)
        request = task_pb2.PlanDeliveryRequest(order_ids=["order_0", "order_1"])
        plan = await mesh.stub.PlanDelivery(request, timeout=20)
        assert plan.workflow_id
        listed = feedback_pb.ListOutcomesRequest(page_size=100, workflow_id=plan.workflow_id)

        async def outcomes() -> list[outcome_pb2.OutcomeEvent]:
            events = list((await mesh.feedback.ListOutcomes(listed)).events)
            return events if len(events) >= 5 else []

        events: list[outcome_pb2.OutcomeEvent] = await eventually(outcomes)
        by_agent = {event.agent_name: event for event in events}
        assert sorted(by_agent) == ["agents.dispatcher", "allocation", "critique", "eta", "route"]
        assert {event.workflow_id for event in events} == {plan.workflow_id}
        assert {step.event_id for step in plan.steps} == {
            event.event_id for event in events if event.agent_name != "agents.dispatcher"
        }
        assert [step.agent for step in plan.steps] == ["allocation", "eta", "route", "critique"]
        # Each step comes after another one of the same workflow.
        allocation = by_agent["allocation"]
        assert by_agent["eta"].parent_event_id == allocation.event_id
        assert by_agent["route"].parent_event_id == allocation.event_id
        run = by_agent["agents.dispatcher"]
        assert (run.run_id, run.action_type) == (plan.run_id, "plan_delivery")
        if models:
            assert run.tokens_used == plan.usage.input_tokens + plan.usage.output_tokens == 43
            assert run.cost_estimate == pytest.approx(plan.usage.cost_usd)
            assert run.llm_latency_ms > 0
        else:
            assert not run.HasField("tokens_used")


async def test_metrics_tell_tokens_and_time_of_models(database: str, tmp_path: Path, mock_openai: MockOpenAI):
    mock_openai.answer_with(use_a_tool_and_answer)
    async with agents_mesh(database, tmp_path, base_url=mock_openai.base_url) as mesh:
        await mesh.seed()
        await mesh.stub.Ask(task_pb2.AskRequest(question="Is order_0 well?"), timeout=20)
        registry = mesh.agents.telemetry.registry
        of_tokens = {"gen_ai_token_type": "input", "gen_ai_response_model": FALLBACK}
        assert registry.get_sample_value("gen_ai_client_token_usage_sum", of_tokens) == 50
        asked = {"gen_ai_operation_name": "chat", "gen_ai_request_model": MODEL, "error_type": ""}
        assert registry.get_sample_value("gen_ai_client_operation_duration_seconds_count", asked) == 2
