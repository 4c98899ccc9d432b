"""What a run does, as it does it: its steps for the record, events for its stream, and what it spends."""

from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.agent.v1 import run_event_pb2 as event_pb
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_MODEL_FAILED

from services.agents.llm import Attempt, ModelReply
from services.agents.structs import struct
from services.agents.tools import ToolOutcome
from services.mesh import json_codec
from services.mesh.errors import MeshError, Unavailable, to_status

# Evidence of a tool that is used again and again is told up to here.
MAX_EVIDENCE: Final = 16
# Of the name of a tool, which a model may make up. In characters.
MAX_NAME: Final = 64
_NANO: Final = 1_000_000_000

Emit = Callable[[StreamRunResponse], None]


@dataclass(slots=True)
class Journal:
    """Written by one run alone. `emit` passes an event on to whoever watches."""

    emit: Emit
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    steps: list[pb.RunStep] = field(default_factory=list)
    usage: pb.Usage = field(default_factory=pb.Usage)
    evidence: list[pb.Evidence] = field(default_factory=list)
    _cost_nano_usd: int = 0
    # The steps that gave the evidence: uses of tools at the same time end in any order.
    _evidence_steps: list[int] = field(default_factory=list)

    def model_answered(self, reply: ModelReply) -> None:
        """A model gave an answer, or asked for tools."""
        self.usage.model = reply.model
        for attempt in reply.failed:
            self.model_failed(attempt)
        # What a reply has cost includes what failed before it.
        given = reply.tokens.input - sum(one.tokens.input for one in reply.failed)
        taken = reply.tokens.output - sum(one.tokens.output for one in reply.failed)
        cost = reply.cost_nano_usd - sum(one.cost_nano_usd for one in reply.failed)
        if reply.cached:
            self.usage.cached_answers += 1
        else:
            self._spend(given, taken, cost, reply.latency_ms)
        self._step(
            pb.STEP_KIND_MODEL,
            reply.model,
            reply.latency_ms,
            input_tokens=given,
            output_tokens=taken,
            cost_usd=cost / _NANO,
        )

    def model_failed(self, attempt: Attempt) -> None:
        """A call to a model came to nothing and may have cost all the same, or was not made."""
        tokens = attempt.tokens
        if attempt.sent:
            self._spend(tokens.input, tokens.output, attempt.cost_nano_usd, attempt.latency_ms)
        error = Unavailable(
            f"{attempt.error_kind}: {attempt.message}",
            reason=ERROR_REASON_MODEL_FAILED,
            metadata={"model": attempt.model},
        )
        self._step(
            pb.STEP_KIND_MODEL,
            attempt.model,
            attempt.latency_ms,
            input_tokens=tokens.input,
            output_tokens=tokens.output,
            cost_usd=attempt.cost_nano_usd / _NANO,
            error=error,
        )

    def tool_begins(self, name: str, arguments: Mapping[str, Any]) -> int:
        """A tool is about to be used: the number of this step, which has no result if the use is given up.

        It is taken now and not with the result: tools are used at the same time, and what comes after a use
        that was given up must not have its number.
        """
        step = self._step(pb.STEP_KIND_TOOL, name[:MAX_NAME], 0.0, arguments=struct(arguments))
        call = event_pb.ToolCall(step=step.step, name=step.name, arguments=step.arguments)
        self.emit(StreamRunResponse(tool_call=call))
        return step.step

    def tool_answered(self, number: int, outcome: ToolOutcome) -> None:
        """The tool that was used in this step gave a result or refused."""
        self.usage.tool_calls += 1
        step = self.steps[number - 1]
        step.duration_ms = outcome.duration_ms
        told = event_pb.ToolResult(step=number, name=step.name, duration_ms=outcome.duration_ms)
        if outcome.result is not None:
            step.result.CopyFrom(struct(outcome.result))
            told.result.CopyFrom(step.result)
            self._rests_on(step)
        if outcome.error is not None:
            step.error.CopyFrom(to_status(outcome.error))
            told.error.CopyFrom(step.error)
        self.emit(StreamRunResponse(tool_result=told))

    def engine_answered(self, name: str, duration_ms: float, answer: Message | Mapping[str, Any]) -> None:
        """An engine said what the answer rests on."""
        plain = json_codec.to_dict(answer) if isinstance(answer, Message) else answer
        step = self._step(pb.STEP_KIND_ENGINE, name, duration_ms, result=struct(plain))
        self._rests_on(step)

    def engine_failed(self, name: str, duration_ms: float, error: MeshError) -> None:
        """An engine had no answer."""
        self._step(pb.STEP_KIND_ENGINE, name, duration_ms, error=error)

    def _rests_on(self, step: pb.RunStep) -> None:
        """The answer rests on what this step gave. Evidence is in the order of steps."""
        if len(self.evidence) < MAX_EVIDENCE:
            place = bisect(self._evidence_steps, step.step)
            self._evidence_steps.insert(place, step.step)
            self.evidence.insert(place, pb.Evidence(source=step.name, result=step.result))

    def _spend(self, input_tokens: int, output_tokens: int, cost_nano_usd: int, latency_ms: float) -> None:
        usage = self.usage
        usage.model_calls += 1
        usage.input_tokens += input_tokens
        usage.output_tokens += output_tokens
        # Kept whole: sums of rounded dollars drift.
        self._cost_nano_usd += cost_nano_usd
        usage.cost_usd = self._cost_nano_usd / _NANO
        usage.llm_latency_ms += latency_ms

    def _step(
        self,
        kind: pb.StepKind.ValueType,
        name: str,
        duration_ms: float,
        *,
        error: MeshError | None = None,
        **said: Any,
    ) -> pb.RunStep:
        started = Timestamp()
        started.FromDatetime(self.clock() - timedelta(milliseconds=duration_ms))
        step = pb.RunStep(
            step=len(self.steps) + 1,
            kind=kind,
            name=name,
            started_at=started,
            duration_ms=duration_ms,
            error=None if error is None else to_status(error),
            **said,
        )
        self.steps.append(step)
        return step
