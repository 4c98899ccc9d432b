"""Events of runs as streams tell them: made of what is kept, or of an answer that was just given."""

import struct
from collections.abc import Iterator, Sequence

from google.rpc import status_pb2  # type: ignore[import-untyped]
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs.cursors import Position
from services.agents.runs.record import RUNNING, RunEnd, StoredRun


def pack_told(told: Sequence[int]) -> bytes:
    """The order of tools' events as it is kept: the step's number for a call, negative for its result."""
    return struct.pack(f">{len(told)}i", *told)


def accepted(agent_id: str, agent_name: str, agent_version: int, task: str) -> StreamRunResponse:
    """The first event."""
    response = StreamRunResponse()
    event = response.accepted
    event.agent_id, event.agent_name = agent_id, agent_name
    event.agent_version, event.task = agent_version, task
    return response


def last(task: str, end: RunEnd, *, streamed: bool = False) -> StreamRunResponse:
    """The last event."""
    response = StreamRunResponse()
    if end.response is None:
        response.error.status.CopyFrom(status_pb2.Status.FromString(end.error or b""))
        return response
    response.result.streamed = streamed
    answer = getattr(response.result, task)
    answer.SetInParent()
    answer.MergeFromString(end.response)
    return response


def first(stored: StoredRun, seen: Position) -> Iterator[tuple[Position, StreamRunResponse]]:
    """What can be told of a run that is under way elsewhere."""
    if seen.events < 1:
        run = stored.run
        yield (
            Position(1, seen.chars),
            accepted(run.agent_id, run.agent_name, run.agent_version, run.task),
        )


def rest(stored: StoredRun, seen: Position) -> Iterator[tuple[Position, StreamRunResponse]]:
    """What came after `seen` in a run that has ended. Text is not kept: the result holds it whole."""
    end = stored.end
    if seen.last or end is None or stored.run.status == RUNNING:
        return
    for position, response in first(stored, seen):
        seen = position
        yield position, response
    for number, response in enumerate(_tools(stored), start=2):
        if number > seen.events:
            seen = Position(number, seen.chars)
            yield seen, response
    yield Position(seen.events, seen.chars, last=True), last(stored.run.task, end)


def _tools(stored: StoredRun) -> Iterator[StreamRunResponse]:
    steps = {step.step: step for step in stored.run.steps}
    for number in struct.unpack(f">{len(stored.told) // 4}i", stored.told):
        response = StreamRunResponse()
        step = steps.get(abs(number))
        if number > 0:
            response.tool_call.step = number
            if step is not None:
                response.tool_call.name = step.name
                response.tool_call.arguments.CopyFrom(step.arguments)
        else:
            response.tool_result.step = -number
            if step is not None:
                response.tool_result.name = step.name
                response.tool_result.duration_ms = step.duration_ms
                if step.HasField("result"):
                    response.tool_result.result.CopyFrom(step.result)
                if step.HasField("error"):
                    response.tool_result.error.CopyFrom(step.error)
        yield response
