"""The memory of one run's events: every reader gets everything once, in order, whatever its pace."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from waymesh.agent.v1 import run_event_pb2 as event_pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs import bounds, replay
from services.agents.runs.cursors import START, Position
from services.agents.runs.endings import of_error
from services.agents.runs.log import MAX_CHARS, MAX_EVENTS, EventLog
from services.agents.runs.record import cancelled

LAST = replay.last("ask", of_error(cancelled("x")))


def new_log() -> EventLog:
    return EventLog(replay.accepted("agent-1", "dispatcher", 1, "ask"))


def event(step: int) -> StreamRunResponse:
    return StreamRunResponse(tool_call=event_pb.ToolCall(step=step, name="get_order"))


async def read(
    log: EventLog, seen: Position = START, most: int | None = None
) -> list[tuple[Position, StreamRunResponse]]:
    found: list[tuple[Position, StreamRunResponse]] = []
    async for position, told in log.follow(seen, 60.0):
        assert told is not None
        found.append((position, told))
        if len(found) == most:
            break
    return found


def flat(told: list[tuple[Position, StreamRunResponse]]) -> list[str]:
    """Characters and steps, however they were put into pieces."""
    parts: list[str] = []
    for _, each in told:
        kind = each.WhichOneof("event")
        parts += list(each.token.text) if kind == "token" else [f"{kind} {each.tool_call.step}"]
    return parts


@given(
    said=st.lists(st.one_of(st.integers(1, 9), st.text(min_size=1, max_size=5)), max_size=20),
    stops=st.lists(st.integers(1, 5), max_size=10),
)
def test_a_reader_that_goes_and_comes_back_reads_what_one_that_stays_does(
    said: list[int | str], stops: list[int]
) -> None:
    async def run() -> None:
        log = new_log()
        log.open()
        waiting = asyncio.ensure_future(read(log))
        await asyncio.sleep(0)
        parts: list[tuple[Position, StreamRunResponse]] = []
        seen = START
        breaks = iter(stops)
        for each in said:
            if isinstance(each, int):
                log.add(event(each))
            else:
                log.add_text(each)
            if next(breaks, 0) and log.knows(Position(seen.events + 1, seen.chars)):
                some = await read(log, seen, 1)
                parts += some
                seen = some[-1][0]
            await asyncio.sleep(0)
        log.end(LAST)
        parts += await read(log, seen)
        expected = [
            part for each in said for part in ([f"tool_call {each}"] if isinstance(each, int) else each)
        ]
        assert flat(await waiting) == flat(parts) == ["accepted 0", *expected, "error 0"]
        assert parts[-1][0].last

    asyncio.run(run())


async def test_nothing_is_told_before_the_run_is_recorded() -> None:
    log = new_log()
    log.add(event(1))
    reader = asyncio.ensure_future(read(log, START, 2))
    await asyncio.sleep(0)
    assert not reader.done()
    log.open()
    assert flat(await reader) == ["accepted 0", "tool_call 1"]


async def test_a_reader_that_keeps_up_gets_each_piece_and_a_slow_one_what_has_gathered() -> None:
    log = new_log()
    log.open()
    quick = asyncio.ensure_future(read(log))
    for word in ("one ", "two ", "three"):
        log.add_text(word)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    log.end(LAST)
    assert [told.token.text for _, told in await quick][1:-1] == ["one ", "two ", "three"]
    assert [told.token.text for _, told in await read(log)][1:-1] == ["one two three"]


async def test_a_position_in_the_middle_of_a_piece_is_as_good_as_any() -> None:
    log = new_log()
    log.add_text("abc")
    log.add(event(2))
    log.add_text("def")
    log.end(LAST)
    for chars in range(7):
        told = flat(await read(log, Position(1 if chars <= 3 else 2, chars)))
        whole = ["a", "b", "c", "tool_call 2", "d", "e", "f", "error 0"]
        assert told == whole[chars if chars <= 3 else chars + 1 :]


async def test_a_text_without_end_is_bounded_and_not_called_whole() -> None:
    log = new_log()
    for _ in range(MAX_CHARS // 1_000 + 10):
        log.add_text("x" * 1_000)
    assert not log.whole
    log.end(LAST)
    assert len("".join(told.token.text for _, told in await read(log))) <= MAX_CHARS


async def test_events_without_end_are_bounded() -> None:
    log = new_log()
    for n in range(MAX_EVENTS + 10):
        log.add(event(n))
    log.end(LAST)
    assert len(await read(log)) == MAX_EVENTS + 1


async def test_what_comes_after_the_end_is_nobodys() -> None:
    log = new_log()
    log.end(LAST)
    log.add(event(1))
    log.add_text("late")
    assert flat(await read(log)) == ["accepted 0", "error 0"]


async def test_readers_get_what_would_be_kept() -> None:
    log = new_log()
    call = event(1)
    call.tool_call.arguments.update({"password": "hunter2", "note": "x" * 2 * bounds.MAX_STEP_BYTES})
    log.add(call)
    log.end(LAST)
    told = (await read(log))[1][1].tool_call.arguments
    assert told == bounds.kept_struct(call.tool_call.arguments)
    assert "hunter2" not in str(told)
    # The run itself goes on with what it had.
    assert call.tool_call.arguments["password"] == "hunter2"


async def test_the_order_of_tools_is_remembered_for_the_record() -> None:
    log = new_log()
    log.add(event(1))
    log.add(event(2))
    log.add(StreamRunResponse(tool_result=event_pb.ToolResult(step=2, name="get_order")))
    assert log.told == [1, 2, -2]
    assert not log.knows(Position(5, 0))
