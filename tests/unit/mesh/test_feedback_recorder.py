"""The recorder: everything that is done leaves one outcome, and recording is never in the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity

from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument, NotFound, Unavailable
from services.mesh.feedback import Action, Dispatcher, DispatchResult, FeedbackPipeline, create_dispatcher
from services.mesh.feedback.spool import Spool


class Service:
    """Stands in for the feedback service: takes batches, or is away."""

    def __init__(self) -> None:
        self.events: list[OutcomeEvent] = []
        self.away = False
        self.arrived = asyncio.Event()

    async def send(self, events: Sequence[OutcomeEvent]) -> None:
        if self.away:
            raise Unavailable("away")
        self.events += events
        self.arrived.set()

    async def count(self, number: int) -> None:
        async with asyncio.timeout(10):
            while len(self.events) < number:
                self.arrived.clear()
                await self.arrived.wait()


class WatchedSpool(Spool):
    """Tells when it has taken something."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.took = threading.Event()

    def append(self, records: Sequence[bytes]) -> int:
        taken = super().append(records)
        self.took.set()
        return taken


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def pipeline(service: Service, tmp_path: Path) -> FeedbackPipeline:
    return FeedbackPipeline(send=service.send, spool=Spool(tmp_path), linger_s=0.001)


@pytest.fixture
def dispatcher(pipeline: FeedbackPipeline) -> Dispatcher:
    return create_dispatcher(pipeline)


async def echo(input_data: Any, context: Mapping[str, Any]) -> Any:
    return input_data


def plain(input_data: Any, context: Mapping[str, Any]) -> Any:
    return {"doubled": input_data["n"] * 2}


async def recent(pipeline: FeedbackPipeline) -> list[OutcomeEvent]:
    return await pipeline.get_recent_events(100)


@pytest.mark.parametrize(
    ("agent", "given", "output"), [(echo, {"a": 1}, {"a": 1}), (plain, {"n": 2}, {"doubled": 4})]
)
async def test_an_action_gives_its_output_and_leaves_one_event(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, agent: Any, given: Any, output: Any
) -> None:
    result = await dispatcher.dispatch(agent, "work", given, {"correlation_id": "c-1"}, ["tag"])
    assert (result.status, result.output) == ("success", output)
    (event,) = await recent(pipeline)
    assert (event.event_id, event.run_id) == (result.event_id, result.run_id)
    assert (event.agent_name, event.action_type) == (agent.__name__, "work")
    assert dict(event.input) == given
    assert dict(event.output) == output
    assert (event.correlation_id, list(event.tags)) == ("c-1", ["tag"])
    assert event.end_time.ToMicroseconds() >= event.start_time.ToMicroseconds()


async def test_an_exception_is_a_failure_with_type_and_trace_and_without_secrets(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    async def fails(input_data: Any, context: Mapping[str, Any]) -> None:
        raise ValueError("no route to postgresql://user:hunter2@db/x")

    result = await dispatcher.dispatch(fails, "work", {"password": "hunter2"})
    assert result.status == "failure"
    (event,) = await recent(pipeline)
    assert event.error_type == "ValueError"
    assert "Traceback" in event.stack_trace
    assert event.severity == Severity.SEVERITY_ERROR
    assert "hunter2" not in str(event)


async def test_a_timeout_a_cancel_and_a_degraded_answer_have_statuses_of_their_own(
    pipeline: FeedbackPipeline,
) -> None:
    async def forever(input_data: Any, context: Mapping[str, Any]) -> None:
        await asyncio.Event().wait()

    async def degraded(input_data: Any, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"eta": 3, "degradation": {"source": "fallback", "reason": "away"}}

    dispatcher = create_dispatcher(pipeline, timeout_s=0.01)
    assert (await dispatcher.dispatch(forever, "wait")).status == "timeout"
    assert (await dispatcher.dispatch(degraded, "guess")).status == "partial"
    patient = create_dispatcher(pipeline)
    task = asyncio.create_task(patient.dispatch(forever, "wait"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    statuses = [event.status for event in reversed(await recent(pipeline))]
    assert statuses == [
        OutcomeStatus.OUTCOME_STATUS_TIMEOUT,
        OutcomeStatus.OUTCOME_STATUS_PARTIAL,
        OutcomeStatus.OUTCOME_STATUS_CANCELLED,
    ]


async def test_hooks_see_each_action_before_and_after(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    seen: list[str] = []

    def before(action: Action) -> None:
        seen.append(f"before {action.action_type}")

    async def after(action: Action, result: DispatchResult, event: OutcomeEvent) -> None:
        seen.append(f"after {result.status}")
        event.tags.append("hooked")

    def broken(action: Action, result: DispatchResult, event: OutcomeEvent) -> None:
        raise RuntimeError("the hook is broken")

    dispatcher.add_pre_hook(before)
    dispatcher.add_post_hook(after)
    dispatcher.add_post_hook(broken)
    assert (await dispatcher.dispatch(echo, "work", {})).ok
    assert seen == ["before work", "after success"]
    (event,) = await recent(pipeline)
    assert "hooked" in event.tags
    assert "the hook is broken" in event.metadata["post_hook_error"]


async def test_without_capture_payloads_stay_out(pipeline: FeedbackPipeline) -> None:
    await create_dispatcher(pipeline, capture=False).dispatch(echo, "work", {"a": 1})
    (event,) = await recent(pipeline)
    assert not event.HasField("input")
    assert not event.HasField("output")


class Step:
    def __init__(self, name: str, run: Callable[[Any], Any], undone: list[str]) -> None:
        self.name = name
        self._run = run
        self._undone = undone

    async def run(self, input_data: Any, context: Mapping[str, Any]) -> Any:
        return self._run(input_data)

    async def compensate(self, output: Any, context: Mapping[str, Any]) -> None:
        self._undone.append(self.name)


def refuse(_: Any) -> Awaitable[Any]:
    raise NotFound("no such order")


async def test_a_sequence_hands_each_output_on_under_one_workflow_id(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    steps = [Step("one", lambda n: n + 1, []), Step("two", lambda n: n * 10, [])]
    done = await dispatcher.execute_workflow(steps, 1, ["nightly"])
    assert done.status == "success"
    assert [output["agent"] for output in done.outputs] == ["one", "two"]
    assert done.results[-1].output == 20
    events = await recent(pipeline)
    assert {event.workflow_id for event in events} == {done.workflow_id}
    assert events[0].parent_event_id == done.outputs[0]["event_id"]


async def test_a_failed_sequence_is_undone_last_first(dispatcher: Dispatcher) -> None:
    undone: list[str] = []
    steps = [
        Step("one", lambda n: n, undone),
        Step("two", lambda n: n, undone),
        Step("three", refuse, undone),
        Step("four", lambda n: n, undone),
    ]
    done = await dispatcher.execute_workflow(steps, 1)
    assert done.status == "failure"
    assert undone == ["two", "one"]
    assert [(o["agent"], o["status"]) for o in done.outputs] == [
        ("one", "success"), ("two", "success"), ("three", "failure"), ("two", "success"), ("one", "success")
    ]  # fmt: skip


async def test_parallel_agents_all_get_the_task(dispatcher: Dispatcher) -> None:
    steps = [Step("one", lambda n: n + 1, []), Step("two", lambda n: n + 2, [])]
    done = await dispatcher.execute_workflow(steps, 1, parallel=True)
    assert [result.output for result in done.results] == [2, 3]


async def test_recent_events_are_filtered_first_and_cut_then(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    async def fails(input_data: Any, context: Mapping[str, Any]) -> None:
        raise ValueError

    await dispatcher.dispatch(fails, "work")
    for _ in range(3):
        await dispatcher.dispatch(echo, "work", {})
    (failed,) = await pipeline.get_recent_events(1, OutcomeStatus.OUTCOME_STATUS_FAILURE)
    assert failed.agent_name == "fails"
    assert await pipeline.get_recent_events(1, "failure") == [failed]
    assert len(await pipeline.get_recent_events(2, agent_name="echo")) == 2
    assert await pipeline.get_recent_events(2, "failure", "echo") == []
    with pytest.raises(ValueError, match="OUTCOME_STATUS_GONE"):
        await pipeline.get_recent_events(1, "gone")


async def test_events_wait_on_disk_while_feedback_is_away_and_come_once_it_is_back(
    service: Service, tmp_path: Path
) -> None:
    spool = WatchedSpool(tmp_path)
    pipeline = FeedbackPipeline(send=service.send, spool=spool, linger_s=0.001)
    dispatcher = create_dispatcher(pipeline)
    running = asyncio.create_task(pipeline.run())
    await dispatcher.dispatch(echo, "before", {})
    await service.count(1)
    service.away = True
    for number in range(5):
        await dispatcher.dispatch(echo, f"away {number}", {})
    assert await asyncio.to_thread(spool.took.wait, 10)
    service.away = False
    await service.count(6)
    assert [event.action_type for event in service.events] == ["before", *(f"away {n}" for n in range(5))]
    running.cancel()
    await pipeline.close()
    assert pipeline.dropped == 0


async def test_of_a_refused_batch_only_what_is_refused_alone_is_dropped(tmp_path: Path) -> None:
    taken: list[str] = []

    async def send(events: Sequence[OutcomeEvent]) -> None:
        names = [event.action_type for event in events]
        if "bad" in names:
            raise InvalidArgument("events: one is bad")
        taken.extend(names)

    pipeline = FeedbackPipeline(send=send, spool=Spool(tmp_path))
    dispatcher = create_dispatcher(pipeline)
    for name in ("a", "bad", "b", "c", "bad", "d"):
        await dispatcher.dispatch(echo, name, {})
    await pipeline.close()
    assert taken == ["a", "b", "c", "d"]
    assert (pipeline.delivered, pipeline.dropped) == (4, 2)


async def test_texts_that_no_store_holds_are_recorded_all_the_same(pipeline: FeedbackPipeline) -> None:
    async def fails(input_data: Any, context: Mapping[str, Any]) -> Any:
        raise ValueError("embedded \0 null byte, half a \ud800")

    await create_dispatcher(pipeline).dispatch(fails, "", {"a\0": "b\ud800"}, tags=["c\0"])
    [event] = await recent(pipeline)
    assert event.error_message == "embedded \ufffd null byte, half a \ufffd"
    assert event.action_type == "unnamed"
    assert "\0" not in event.tags[0] + event.stack_trace
    assert dict(event.input) == {"a\ufffd": "b\ufffd"}
    check(event)


async def test_a_process_that_ends_while_feedback_is_away_leaves_its_events_to_the_next(
    service: Service, tmp_path: Path
) -> None:
    service.away = True
    first = FeedbackPipeline(send=service.send, spool=Spool(tmp_path))
    await create_dispatcher(first).dispatch(echo, "last words", {})
    await first.close()
    service.away = False
    second = FeedbackPipeline(send=service.send, spool=Spool(tmp_path))
    running = asyncio.create_task(second.run())
    await service.count(1)
    running.cancel()
    assert service.events[0].action_type == "last words"


async def test_a_disk_that_refuses_is_counted_and_not_raised(service: Service, tmp_path: Path) -> None:
    service.away = True
    (tmp_path / "file").touch()
    pipeline = FeedbackPipeline(send=service.send, spool=Spool(tmp_path / "file" / "spool"))
    await create_dispatcher(pipeline).dispatch(echo, "work", {})
    await pipeline.close()
    assert pipeline.dropped == 1


async def test_nothing_is_recorded_when_outcome_logging_is_off(service: Service, tmp_path: Path) -> None:
    pipeline = FeedbackPipeline(send=service.send, spool=Spool(tmp_path), enabled=False)
    await create_dispatcher(pipeline).dispatch(echo, "work", {})
    await pipeline.close()
    assert service.events == []
    assert await recent(pipeline) == []
