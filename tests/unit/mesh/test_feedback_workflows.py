"""Workflows: one id for all, and what was done is undone when one fails or the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from recorder_rig import idle_pipeline
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh import logs
from services.mesh.feedback import Dispatcher, FeedbackPipeline, Partial, create_dispatcher
from services.mesh.feedback.outcome import status_name
from services.mesh.feedback.spool import Spool


@pytest.fixture
def log() -> list[str]:
    return []


class Step:
    """Adds one, and notes what it does; `after` is awaited first, `error` raised last."""

    def __init__(
        self, name: str, log: list[str], *, after: asyncio.Event | None = None, error: Any = None
    ) -> None:
        self.name = name
        self.log = log
        self.after = after
        self.error = error
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def run(self, given: Any, context: Mapping[str, Any]) -> Any:
        self.begun.set()
        if self.after is not None:
            await self.after.wait()
        self.log.append(f"did {self.name}")
        self.ended.set()
        if self.error is not None:
            raise self.error
        return given + 1

    async def compensate(self, output: Any, context: Mapping[str, Any]) -> None:
        await asyncio.sleep(0)
        self.log.append(f"undid {self.name} of {output}")


class Plain(Step):
    """Undoes in a thread."""

    def compensate(self, output: Any, context: Mapping[str, Any]) -> None:  # type: ignore[override]
        self.log.append(f"undid {self.name} of {output}")


class Stubborn(Step):
    """Cannot be undone."""

    async def compensate(self, output: Any, context: Mapping[str, Any]) -> None:
        self.log.append(f"tried {self.name}")
        raise RuntimeError("cannot be undone")


async def recorded(pipeline: FeedbackPipeline) -> list[OutcomeEvent]:
    return (await pipeline.get_recent_events(100))[::-1]


def told(events: list[OutcomeEvent]) -> list[tuple[str, str, str]]:
    return [(event.agent_name, event.action_type, status_name(event.status)) for event in events]


NO = ValueError("no")


async def test_a_failed_sequence_is_undone_newest_first_by_coroutines_and_plain_functions(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str]
) -> None:
    steps = [Step("a", log), Plain("b", log), Step("c", log, error=NO), Step("d", log)]
    done = await dispatcher.execute_workflow(steps, 0)
    assert log == ["did a", "did b", "did c", "undid b of 2", "undid a of 1"]
    assert done.status == "failure"
    assert [output.get("action") for output in done.outputs] == [None, None, None, "compensate", "compensate"]
    events = await recorded(pipeline)
    assert told(events) == [
        ("a", "run", "success"),
        ("b", "run", "success"),
        ("c", "run", "failure"),
        ("b", "compensate", "success"),
        ("a", "compensate", "success"),
    ]
    assert {event.workflow_id for event in events} == {done.workflow_id}
    a, b, c, undo_b, undo_a = events
    assert [one.parent_event_id for one in events] == ["", a.event_id, b.event_id, b.event_id, a.event_id]
    assert [output["event_id"] for output in done.outputs] == [event.event_id for event in events]
    assert (c.error_message, undo_b.input["value"], undo_a.input["value"]) == ("no", 2, 1)


async def test_a_compensation_that_fails_is_recorded_and_the_rest_go_on(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str]
) -> None:
    steps = [Step("a", log), Stubborn("b", log), Step("c", log, error=NO)]
    done = await dispatcher.execute_workflow(steps, 0)
    assert log[-2:] == ["tried b", "undid a of 1"]
    assert [(one["agent"], one["status"]) for one in done.outputs[3:]] == [("b", "failure"), ("a", "success")]
    assert told(await recorded(pipeline))[3] == ("b", "compensate", "failure")


async def test_in_parallel_the_others_are_awaited_and_undone_in_reverse_order_of_their_ends(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str]
) -> None:
    fails = Step("fails", log, error=NO)
    second = Step("second", log, after=fails.ended)
    third = Step("third", log, after=second.ended)
    done = await dispatcher.execute_workflow([third, second, fails], 0, parallel=True)
    assert log == ["did fails", "did second", "did third", "undid third of 1", "undid second of 1"]
    assert [(one["agent"], one["status"]) for one in done.outputs] == [
        ("third", "success"), ("second", "success"), ("fails", "failure"),
        ("third", "success"), ("second", "success"),
    ]  # fmt: skip
    assert {event.workflow_id for event in await recorded(pipeline)} == {done.workflow_id}


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_cancelled_workflow_is_undone_and_recorded_before_the_cancel_goes_on(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str], parallel: bool
) -> None:
    first, hangs = Step("first", log), Step("hangs", log, after=asyncio.Event())
    running = asyncio.create_task(dispatcher.execute_workflow([first, hangs], 0, parallel=parallel))
    await hangs.begun.wait()
    await first.ended.wait()
    for _ in range(3):  # the first step's end is handled
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert log == ["did first", "undid first of 1"]
    assert told(await recorded(pipeline)) == [
        ("first", "run", "success"),
        ("hangs", "run", "cancelled"),
        ("first", "compensate", "success"),
    ]


async def test_a_cancel_that_comes_while_it_is_undone_does_not_stop_that(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str]
) -> None:
    go, undoing = asyncio.Event(), asyncio.Event()

    class Slow(Step):
        async def compensate(self, output: Any, context: Mapping[str, Any]) -> None:
            undoing.set()
            await go.wait()
            log.append("undid slowly")

    running = asyncio.create_task(
        dispatcher.execute_workflow([Step("a", log), Slow("b", log), Step("c", log, error=NO)], 0)
    )
    await undoing.wait()
    for _ in range(3):
        running.cancel()
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert log[-2:] == ["undid slowly", "undid a of 1"]
    assert [status for _, _, status in told(await recorded(pipeline))][3:] == ["success", "success"]


async def test_a_time_limit_around_a_workflow_undoes_it(dispatcher: Dispatcher, log: list[str]) -> None:
    hangs = Step("hangs", log, after=asyncio.Event())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await dispatcher.execute_workflow([Step("a", log), hangs], 0)
    assert log == ["did a", "undid a of 1"]


async def test_an_agent_that_cancels_itself_in_parallel_has_failed_and_nobody_else_is_cancelled(
    dispatcher: Dispatcher, log: list[str]
) -> None:
    steps = [Step("a", log), Step("b", log, error=asyncio.CancelledError())]
    done = await dispatcher.execute_workflow(steps, 0, parallel=True)
    assert (done.status, log[-1]) == ("cancelled", "undid a of 1")


@pytest.mark.parametrize("parallel", [False, True])
def test_an_agent_that_ends_the_process_has_the_others_undone_first(
    tmp_path: Path, log: list[str], parallel: bool
) -> None:
    async def main() -> None:
        pipeline = idle_pipeline(tmp_path)
        steps = [Step("a", log), Step("b", log, error=SystemExit(3))]
        await create_dispatcher(pipeline).execute_workflow(steps, 0, parallel=parallel)

    with pytest.raises(SystemExit):
        asyncio.run(main())
    assert log[-1] == "undid a of 1"


async def test_a_post_hook_that_is_cancelled_does_not_hide_what_was_done(
    dispatcher: Dispatcher, log: list[str]
) -> None:
    inside = asyncio.Event()

    async def hook(action: Any, *_: object) -> None:
        if action.action_type != "compensate":
            inside.set()
            await asyncio.Event().wait()

    dispatcher.add_post_hook(hook)
    running = asyncio.create_task(dispatcher.execute_workflow([Step("a", log), Step("b", log)], 0))
    await inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert log == ["did a", "undid a of 1"]


async def test_agents_without_compensate_are_passed_over(dispatcher: Dispatcher, log: list[str]) -> None:
    async def echo(given: Any, context: Mapping[str, Any]) -> Any:
        return given

    done = await dispatcher.execute_workflow([Step("a", log), echo, Step("c", log, error=NO)], 0)
    assert len(done.outputs) == 4
    assert log[-1] == "undid a of 1"


async def test_links_of_the_caller_reach_every_event(
    dispatcher: Dispatcher, pipeline: FeedbackPipeline, log: list[str]
) -> None:
    token = logs.request_id.set("request-1")
    try:
        done = await dispatcher.execute_workflow(
            [Step("a", log), Step("b", log, error=NO)],
            0,
            ["nightly"],
            context={"workflow_id": "order-7", "parent_event_id": "before", "run_id": "not of each"},
        )
    finally:
        logs.request_id.reset(token)
    assert done.workflow_id == "order-7"
    events = await recorded(pipeline)
    assert {(one.workflow_id, one.correlation_id, *one.tags) for one in events} == {
        ("order-7", "request-1", "nightly")
    }
    assert events[0].parent_event_id == "before"
    assert len({one.run_id for one in events}) == 3


async def test_a_workflow_with_a_part_done_is_partial_and_goes_on(
    dispatcher: Dispatcher, log: list[str]
) -> None:
    async def half(given: Any, context: Mapping[str, Any]) -> Any:
        return Partial(given + 10)

    done = await dispatcher.execute_workflow([half, Step("b", log)], 0)
    assert (done.status, done.results[-1].output) == ("partial", 11)


async def test_no_agents_make_an_empty_workflow(dispatcher: Dispatcher) -> None:
    for parallel in (False, True):
        done = await dispatcher.execute_workflow([], 0, parallel=parallel)
        assert (done.status, done.outputs) == ("success", ())


async def test_a_workflow_is_durable_when_all_its_events_are(tmp_path: Path, log: list[str]) -> None:
    async def send(_events: object) -> None: ...

    pipeline = FeedbackPipeline(send=send, spool=Spool(tmp_path))
    done = await create_dispatcher(pipeline).execute_workflow([Step("a", log), Step("b", log, error=NO)], 0)
    waiting = asyncio.create_task(done.durable())
    await pipeline.close()
    assert await waiting
    assert pipeline.delivered == 3
