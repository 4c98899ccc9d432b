"""Spans and metrics of agents, models and tools, by OpenTelemetry's conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/: `invoke_agent`, `chat` and `execute_tool`. What is said
to models and by them is in spans only where that is asked for, redacted.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as names
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from prometheus_client import Histogram

from services.agents.catalogue import Agent
from services.agents.llm import ModelFailure, ModelReply, ModelRequest
from services.agents.tools import ToolOutcome
from services.mesh.errors import MeshError
from services.mesh.redact import redact
from services.mesh.telemetry import Telemetry

# Those the conventions name for the two metrics.
_TOKEN_BUCKETS: Final = tuple(float(4**power) for power in range(14))
_SECOND_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
# Of a text that is captured, in characters.
_MAX_CAPTURED: Final = 16_384
_PROVIDER: Final = "openai"
_CHAT: Final = "chat"
UNKNOWN_TOOL: Final = "unknown"


class GenAi:
    """Makes the spans of one process; they cost next to nothing where nobody takes them.

    `named`: a model as labels and names of spans have it, which are for ever; attributes have its own name.
    """

    def __init__(
        self, telemetry: Telemetry, *, capture: bool = False, named: Callable[[str], str] = str
    ) -> None:
        self._telemetry = telemetry
        self._capture = capture
        self._named = named
        labels = ["gen_ai_operation_name", "gen_ai_request_model", "error_type"]
        self._seconds = Histogram(
            "gen_ai_client_operation_duration_seconds",
            "Time of a call to a model, its retries and fallbacks included",
            labels,
            buckets=_SECOND_BUCKETS,
            registry=telemetry.registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a call to a model",
            ["gen_ai_token_type", "gen_ai_response_model"],
            buckets=_TOKEN_BUCKETS,
            registry=telemetry.registry,
        )

    @contextmanager
    def agent(self, agent: Agent, *, task: str, run_id: str, workflow_id: str = "") -> Iterator[None]:
        """Around a run."""
        attributes: dict[str, Any] = {
            names.GEN_AI_OPERATION_NAME: "invoke_agent",
            names.GEN_AI_PROVIDER_NAME: _PROVIDER,
            names.GEN_AI_AGENT_ID: agent.agent_id,
            names.GEN_AI_AGENT_NAME: agent.name,
            names.GEN_AI_AGENT_VERSION: str(agent.version),
            names.GEN_AI_CONVERSATION_ID: run_id,
            "waymesh.task": task,
        }
        if workflow_id:
            attributes[names.GEN_AI_WORKFLOW_NAME] = task
            attributes["waymesh.workflow_id"] = workflow_id
        with self._span(f"invoke_agent {agent.name}", SpanKind.INTERNAL, attributes):
            yield

    @contextmanager
    def chat(self, request: ModelRequest) -> Iterator["ChatSpan"]:
        """Around a call to models, all attempts together."""
        settings = request.settings
        attributes: dict[str, Any] = {
            names.GEN_AI_OPERATION_NAME: _CHAT,
            names.GEN_AI_PROVIDER_NAME: _PROVIDER,
            names.GEN_AI_REQUEST_MODEL: settings.model,
            names.GEN_AI_REQUEST_TEMPERATURE: settings.temperature,
            names.GEN_AI_REQUEST_MAX_TOKENS: settings.max_output_tokens,
            names.GEN_AI_OUTPUT_TYPE: "json" if request.schema is not None else "text",
        }
        if self._capture:
            attributes[names.GEN_AI_INPUT_MESSAGES] = captured([_message(one) for one in request.messages])
        began = time.monotonic()
        error_type, model = "", self._named(settings.model)
        try:
            with self._span(f"{_CHAT} {model}", SpanKind.CLIENT, attributes) as span:
                yield ChatSpan(self, span)
        except BaseException as error:
            error_type = _type_of(error)
            raise
        finally:
            self._seconds.labels(_CHAT, model, error_type).observe(time.monotonic() - began)

    @contextmanager
    def tool(self, name: str) -> Iterator["ToolSpan"]:
        """Around one use of a tool, whose name is one of ours or `UNKNOWN_TOOL`."""
        attributes = {
            names.GEN_AI_OPERATION_NAME: "execute_tool",
            names.GEN_AI_TOOL_NAME: name,
            names.GEN_AI_TOOL_TYPE: "function",
        }
        with self._span(f"execute_tool {name}", SpanKind.INTERNAL, attributes) as span:
            yield ToolSpan(span, self._capture)

    def replied(self, span: Span, reply: ModelReply) -> None:
        """What came back."""
        if not reply.cached:
            model = self._named(reply.model)
            self._tokens.labels("input", model).observe(reply.tokens.input)
            self._tokens.labels("output", model).observe(reply.tokens.output)
        if not span.is_recording():
            return
        span.set_attributes(
            {
                names.GEN_AI_RESPONSE_MODEL: reply.model,
                names.GEN_AI_RESPONSE_FINISH_REASONS: (reply.finish_reason,),
                names.GEN_AI_USAGE_INPUT_TOKENS: reply.tokens.input,
                names.GEN_AI_USAGE_OUTPUT_TOKENS: reply.tokens.output,
                "waymesh.cached": reply.cached,
                "waymesh.cost_usd": reply.cost_nano_usd / 1e9,
            }
        )
        if self._capture:
            calls = [_call(use.id, use.name, use.arguments) for use in reply.tool_uses]
            said = {"role": "assistant", "parts": [*_text(reply.text), *calls]}
            told = [{**said, "finish_reason": reply.finish_reason}]
            span.set_attribute(names.GEN_AI_OUTPUT_MESSAGES, captured(told))

    @contextmanager
    def _span(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> Iterator[Span]:
        # What an exception says may be a prompt: its type alone goes into the span.
        with self._telemetry.tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_attribute(ERROR_TYPE, _type_of(error))
                span.set_status(Status(StatusCode.ERROR, _type_of(error)))
                raise


class ChatSpan:
    """The span of a call to models."""

    def __init__(self, gen_ai: GenAi, span: Span) -> None:
        self._gen_ai = gen_ai
        self._span = span

    def replied(self, reply: ModelReply) -> None:
        """What came back."""
        self._gen_ai.replied(self._span, reply)


class ToolSpan:
    """The span of one use of a tool."""

    def __init__(self, span: Span, capture: bool) -> None:
        self._span = span
        self._capture = capture

    def used(self, outcome: ToolOutcome) -> None:
        """What came of it."""
        span = self._span
        if outcome.error is not None:
            span.set_attribute(ERROR_TYPE, _type_of(outcome.error))
            span.set_status(Status(StatusCode.ERROR, _type_of(outcome.error)))
        if self._capture and span.is_recording():
            span.set_attribute(names.GEN_AI_TOOL_CALL_ARGUMENTS, captured(outcome.arguments))
            span.set_attribute(names.GEN_AI_TOOL_CALL_RESULT, captured(outcome.result))


def _message(chat: Mapping[str, Any]) -> dict[str, Any]:
    """A message of a chat completion as the conventions have it: a role and its parts."""
    content = chat.get("content") or ""
    if chat["role"] == "tool":
        answer = {"type": "tool_call_response", "id": chat["tool_call_id"], "response": content}
        return {"role": "tool", "parts": [answer]}
    calls = [
        _call(one["id"], one["function"]["name"], one["function"]["arguments"])
        for one in chat.get("tool_calls", ())
    ]
    return {"role": chat["role"], "parts": [*_text(content), *calls]}


def _text(content: str) -> list[dict[str, str]]:
    return [{"type": "text", "content": content}] if content else []


def _call(call: str, name: str, arguments: str) -> dict[str, str]:
    return {"type": "tool_call", "id": call, "name": name, "arguments": arguments}


def captured(value: Mapping[str, Any] | Sequence[Any] | None) -> str:
    """A value as it may stand in a span: without what is secret, and not longer than it is worth."""
    text = json.dumps(redact(value), ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_CAPTURED else text[: _MAX_CAPTURED - 1] + "…"


def _type_of(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED"
    if isinstance(error, MeshError):
        return error.reason_name or error.code.name
    if isinstance(error, ModelFailure) and error.attempts:
        return error.attempts[-1].error_kind
    return type(error).__name__
