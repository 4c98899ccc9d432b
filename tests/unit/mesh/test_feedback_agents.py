"""Agents of every kind: each leaves one outcome that says how it ended."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recorder_rig import idle_pipeline
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus

from services.mesh import deadline, logs
from services.mesh.errors import Cancelled, DeadlineExceeded
from services.mesh.feedback import Dispatcher, FeedbackPipeline, Partial, create_dispatcher
from services.mesh.feedback.outcome import status_name

Context = Mapping[str, Any]


async def events(pipeline: FeedbackPipeline) -> list[OutcomeEvent]:
    return (await pipeline.get_recent_events(100))[::-1]


async def statuses(pipeline: FeedbackPipeline) -> list[str]:
    return [status_name(event.status) for event in await events(pipeline)]


async def coroutine(given: Any, context: Context) -> Any:
    return given


def plain(given: Any, context: Context) -> Any:
    return given


def returns_awaitable(given: Any, context: Context) -> Awaitable[Any]:
    return coroutine(given, context)


class Called:
    async def __call__(self, given: Any, context: Context) -> Any:
        return given


class Runs:
    def run(self, given: Any, context: Context) -> Any:
        return given


@functools.wraps(plain)
def wrapped(given: Any, context: Context) -> Any:
    return plain(given, context)


KINDS = [coroutine, plain, returns_awaitable, Called(), Runs(), functools.partial(coroutine), wrapped]


@pytest.mark.parametrize("agent", KINDS, ids=lambda agent: getattr(agent, "__name__", type(agent).__name__))
async def test_agents_of_all_kinds_give_their_output(dispatcher: Dispatcher, agent: Any) -> None:
    result = await dispatcher.dispatch(agent, "work", 7)
    assert (result.status, result.output) == ("success", 7)


async def test_a_plain_agent_runs_in_a_thread_with_the_context_of_its_caller(dispatcher: Dispatcher) -> None:
    def seen(given: Any, context: Context) -> Any:
        left = deadline.remaining()
        return (
            threading.current_thread() is threading.main_thread(),
            logs.request_id.get(),
            left is not None and left <= 30,
        )

    token = logs.request_id.set("request-1")
    try:
        with deadline.budget(30):
            result = await dispatcher.dispatch(seen, "work")
    finally:
        logs.request_id.reset(token)
    assert result.output == (False, "request-1", True)


async def test_the_id_of_the_request_ties_events_together_unless_another_is_given(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    token = logs.request_id.set("request-1")
    try:
        await dispatcher.dispatch(coroutine, "work")
        await dispatcher.dispatch(coroutine, "work", context={"correlation_id": "mine"})
        await dispatcher.dispatch(coroutine, "work", context={"correlation_id": ""})
    finally:
        logs.request_id.reset(token)
    assert [event.correlation_id for event in await events(pipeline)] == ["request-1", "mine", "request-1"]


async def test_a_plain_agent_whose_caller_leaves_is_cancelled_once_and_its_end_is_not_looked_at(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    began, go, ended = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow(given: Any, context: Context) -> Any:
        loop.call_soon_threadsafe(began.set)
        go.wait(30)
        ended.set()
        raise ValueError("too late")

    task = asyncio.create_task(dispatcher.dispatch(slow, "work"))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert (await dispatcher.dispatch(plain, "after")).ok
    assert await statuses(pipeline) == ["cancelled", "success"]


async def test_a_plain_agent_that_takes_too_long_is_a_timeout(pipeline: FeedbackPipeline) -> None:
    go = threading.Event()
    try:
        result = await create_dispatcher(pipeline, timeout_s=0.01).dispatch(lambda *_: go.wait(30), "work")
    finally:
        go.set()
    assert result.status == "timeout"


async def test_plain_agents_that_hang_keep_no_others_from_the_threads_of_the_loop(
    pipeline: FeedbackPipeline,
) -> None:
    go = threading.Event()
    dispatcher = create_dispatcher(pipeline)
    hanging = [asyncio.create_task(dispatcher.dispatch(lambda *_: go.wait(30), "hang")) for _ in range(40)]
    try:
        assert await asyncio.to_thread(lambda: "there") == "there"
    finally:
        go.set()
    assert all(result.ok for result in await asyncio.gather(*hanging))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "failure"),
        (StopIteration("no"), "failure"),
        (TimeoutError(), "timeout"),
        (DeadlineExceeded("late"), "timeout"),
        (Cancelled("the caller has gone"), "cancelled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
@pytest.mark.parametrize("in_thread", [False, True])
async def test_an_exception_is_in_the_result_and_not_raised(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, error: Exception, status: str, in_thread: bool
) -> None:
    def fails(given: Any, context: Context) -> Any:
        raise error

    async def fails_too(given: Any, context: Context) -> Any:
        raise error

    result = await dispatcher.dispatch(fails if in_thread else fails_too, "work")
    assert result.status == status
    assert isinstance(result.error, Exception)
    assert await statuses(pipeline) == [status]


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("in_thread", [False, True])
def test_what_ends_the_process_is_recorded_and_goes_on(
    tmp_path: Path, kind: type[BaseException], in_thread: bool
) -> None:
    async def ends(given: Any, context: Context) -> Any:
        raise kind("the end")

    def ends_too(given: Any, context: Context) -> Any:
        raise kind("the end")

    pipelines: list[FeedbackPipeline] = []

    async def main() -> None:
        pipelines.append(idle_pipeline(tmp_path))
        await create_dispatcher(pipelines[0]).dispatch(ends_too if in_thread else ends, "work")

    with pytest.raises(kind):
        asyncio.run(main())
    [event] = asyncio.run(pipelines[0].get_recent_events(10))
    assert (event.status, event.error_type) == (OutcomeStatus.OUTCOME_STATUS_FAILURE, kind.__name__)


async def test_an_agent_may_say_that_it_did_a_part(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    async def half(given: Any, context: Context) -> Any:
        return Partial({"rows": 3}, "the second page did not come")

    result = await dispatcher.dispatch(half, "work")
    assert (result.status, result.output, result.ok) == ("partial", {"rows": 3}, True)
    [event] = await events(pipeline)
    assert dict(event.output) == {"rows": 3}
    assert event.metadata["partial"] == "the second page did not come"


def generates(given: Any, context: Context) -> Iterator[int]:
    yield 1


async def streams(given: Any, context: Context) -> AsyncIterator[int]:
    yield 1


def hands_out_a_generator(given: Any, context: Context) -> Any:
    return generates(given, context)


async def hands_out_a_stream(given: Any, context: Context) -> Any:
    return streams(given, context)


class CalledStream:
    async def __call__(self, given: Any, context: Context) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    "agent", [generates, streams, hands_out_a_generator, hands_out_a_stream, CalledStream()]
)
async def test_an_agent_that_yields_is_refused_in_words(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, agent: Any
) -> None:
    result = await dispatcher.dispatch(agent, "work")
    assert result.status == "failure"
    [event] = await events(pipeline)
    assert event.error_type == "TypeError"
    assert event.error_message.endswith("yields; an agent gives one output")


async def test_what_is_no_agent_fails_in_words(dispatcher: Dispatcher, pipeline: FeedbackPipeline) -> None:
    nobody: Any = 7
    assert (await dispatcher.dispatch(nobody, "work")).status == "failure"
    [event] = await events(pipeline)
    assert event.error_message == "int is no agent: it has no run and cannot be called"


async def test_an_agent_whose_run_cannot_be_got_fails_with_that(dispatcher: Dispatcher) -> None:
    class Broken:
        name = "broken"

        @property
        def run(self) -> Any:
            raise RuntimeError("no run today")

    broken: Any = Broken()
    result = await dispatcher.dispatch(broken, "work")
    assert str(result.error) == "no run today"


async def test_a_context_or_tags_that_cannot_be_read_do_no_harm(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "again"

    odd: Any = object()
    tags: Any = endless()
    assert (await dispatcher.dispatch(coroutine, "work", 1, odd, odd)).ok
    assert (await dispatcher.dispatch(coroutine, "work", 1, {}, tags)).ok
    assert (await dispatcher.dispatch(coroutine, "work", 1, {}, "one")).ok
    assert [len(event.tags) for event in await events(pipeline)] == [0, 64, 1]


async def test_a_pre_hook_that_fails_keeps_the_agent_from_running(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    ran: list[Any] = []

    def refuses(_action: Any) -> None:
        raise PermissionError("not today")

    dispatcher.add_pre_hook(refuses)
    result = await dispatcher.dispatch(lambda *given: ran.append(given), "work")
    assert (result.status, ran) == ("failure", [])
    assert [event.error_type for event in await events(pipeline)] == ["PermissionError"]


async def test_a_coroutine_that_is_closed_leaves_its_outcome(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline
) -> None:
    async def waits(given: Any, context: Context) -> Any:
        await asyncio.Event().wait()

    async def hook(*_: object) -> None:
        await asyncio.sleep(0)

    dispatcher.add_post_hook(hook)
    running = dispatcher.dispatch(waits, "work")
    running.send(None)
    running.close()
    assert await statuses(pipeline) == ["cancelled"]
