"""Streams of runs: from any cursor on, in the process that has the run, in another one, and after its end."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence

import pytest
from waymesh.agent.v1 import run_event_pb2 as event_pb
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs import Answer, LiveRun
from services.agents.runs.cursors import Position, cursor_of
from services.agents.runs.record import key_of
from services.mesh.errors import InvalidArgument, MeshError, NotFound, OutOfRange, to_status
from tests.integration.agent_runs_rig import GUARD_S, Held, Replica, answer, at_once, new_run, replica

WORDS = ("It ", "takes ", "12 ", "minutes.")


@pytest.fixture(autouse=True)
async def guard() -> AsyncIterator[None]:
    async with asyncio.timeout(GUARD_S):
        yield


@pytest.fixture
async def one(database: str) -> AsyncIterator[Replica]:
    async with replica(database) as made:
        yield made


@pytest.fixture
async def two(database: str) -> AsyncIterator[Replica]:
    async with replica(database, heartbeat_s=0.05) as made:
        yield made


def tool_call(step: int) -> StreamRunResponse:
    call = event_pb.ToolCall(step=step, name="get_order")
    call.arguments.update({"order_id": f"order_{step}", "password": "secret"})
    return StreamRunResponse(tool_call=call)


def tool_result(live: LiveRun, step: int) -> StreamRunResponse:
    """The event, and the step that is recorded."""
    done = pb.RunStep(step=step, kind=pb.STEP_KIND_TOOL, name="get_order", duration_ms=2)
    done.arguments.CopyFrom(tool_call(step).tool_call.arguments)
    if step == 3:
        done.error.CopyFrom(to_status(NotFound("no such order")))
    else:
        done.result.update({"status": "placed", "step": step})
    live.steps.append(done)
    told = event_pb.ToolResult(step=step, name="get_order", duration_ms=2)
    if step == 3:
        told.error.CopyFrom(done.error)
    else:
        told.result.CopyFrom(done.result)
    return StreamRunResponse(tool_result=told)


class Talking:
    """Work that tells of a tool, two more at once and a text in pieces, each when it is told to."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.go = asyncio.Semaphore(1_000 if at_once else 0)

    async def __call__(self, live: LiveRun) -> Answer:
        for event in (
            lambda: tool_call(1),
            lambda: tool_result(live, 1),
            lambda: tool_call(2),
            lambda: tool_call(3),
            lambda: tool_result(live, 3),
            lambda: tool_result(live, 2),
        ):
            await self.go.acquire()
            live.emit(event())
        for word in WORDS:
            await self.go.acquire()
            live.token(word)
        done = answer(live, "".join(WORDS))
        return Answer(done.response, done.text, streamed=True)


async def read(where: Replica, tenant: str = "acme", **which: str) -> list[StreamRunResponse]:
    return [told async for told in where.streams.stream(tenant, **which)]


def kinds(told: Sequence[StreamRunResponse]) -> list[str]:
    return [str(one.WhichOneof("event")) for one in told]


def text(told: Sequence[StreamRunResponse]) -> str:
    return "".join(one.token.text for one in told)


def told_of_tools(told: Sequence[StreamRunResponse]) -> list[StreamRunResponse]:
    """Without cursors, which say how much text came before."""
    found = []
    for each in told:
        if each.WhichOneof("event") in ("accepted", "tool_call", "tool_result"):
            bare = StreamRunResponse()
            bare.CopyFrom(each)
            bare.cursor = ""
            found.append(bare)
    return found


TOOLS = ["tool_call", "tool_result", "tool_call", "tool_call", "tool_result", "tool_result"]


async def test_a_stream_tells_all_that_a_run_does_in_order(one: Replica) -> None:
    work = Talking(at_once=False)
    await one.runs.begin(new_run("x"), work, limit_s=100)
    told: list[StreamRunResponse] = []
    async for each in one.streams.stream("acme", run_id="x"):
        told.append(each)
        work.go.release()
    assert kinds(told) == ["accepted", *TOOLS, *["token"] * 4, "result"]
    assert [each.token.text for each in told if each.HasField("token")] == list(WORDS)
    accepted, result = told[0].accepted, told[-1].result
    assert (accepted.agent_name, accepted.agent_version, accepted.task) == ("dispatcher", 3, "ask")
    assert (result.ask.answer, result.streamed) == ("It takes 12 minutes.", True)
    assert {each.run_id for each in told} == {"x"}
    assert "secret" not in str(told)


async def test_from_every_cursor_on_nothing_is_told_twice_and_nothing_left_out(
    one: Replica, two: Replica
) -> None:
    work = Talking(at_once=False)
    await one.runs.begin(new_run("x"), work, limit_s=100)
    whole: list[StreamRunResponse] = []
    async for each in one.streams.stream("acme", run_id="x"):
        whole.append(each)
        work.go.release()
    for place, last in enumerate(whole):
        behind = whole[place + 1 :]
        from_memory = await read(one, cursor=last.cursor)
        assert kinds(from_memory)[-1:] == kinds(behind)[-1:]
        assert text(from_memory) == text(behind)
        assert told_of_tools(from_memory) == told_of_tools(behind)
        if behind:
            assert from_memory[-1] == behind[-1]
        # Text is told live only; the result says so.
        from_store = await read(two, cursor=last.cursor)
        assert told_of_tools(from_store) == told_of_tools(behind)
        assert not text(from_store)
        assert kinds(from_store)[-1:] == kinds(behind)[-1:]
        if behind:
            assert from_store[-1].result.ask == behind[-1].result.ask
            assert not from_store[-1].result.streamed


async def test_a_cursor_of_the_store_goes_on_in_memory_and_the_other_way_round(
    one: Replica, two: Replica
) -> None:
    work = Talking(at_once=False)
    await one.runs.begin(new_run("x"), work, limit_s=100)
    elsewhere = two.streams.stream("acme", run_id="x")
    first = await anext(elsewhere)
    assert kinds([first]) == ["accepted"]
    for _ in range(1_000):
        work.go.release()
    here = await read(one, cursor=first.cursor)
    assert kinds(here)[:6] == TOOLS
    assert kinds([each async for each in elsewhere if not each.HasField("heartbeat")]) == [*TOOLS, "result"]


async def test_several_readers_each_get_everything(one: Replica) -> None:
    work = Talking(at_once=False)
    await one.runs.begin(new_run("x"), work, limit_s=100)

    async def follow() -> list[StreamRunResponse]:
        return await read(one, run_id="x")

    readers = [asyncio.ensure_future(follow()) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0.001)
        work.go.release()
    for told in await asyncio.gather(*readers):
        assert kinds(told_of_tools(told)) == ["accepted", *TOOLS]
        assert text(told) == "".join(WORDS)


async def test_a_run_goes_on_without_its_readers(one: Replica) -> None:
    held = Held()
    await one.runs.begin(new_run("x"), held, limit_s=100)
    reader = asyncio.ensure_future(read(one, run_id="x"))
    await held.began.wait()
    reader.cancel()
    await asyncio.wait([reader])
    held.go.set()
    assert kinds(await read(one, run_id="x"))[-1] == "result"


async def test_silence_is_broken_by_signs_of_life(one: Replica, two: Replica, database: str) -> None:
    held = Held()
    async with replica(database, heartbeat_s=0.02) as quick:
        await quick.runs.begin(new_run("x"), held, limit_s=100)
        # In the process that has the run, and in another one.
        for where in (quick, two):
            told = []
            async for each in where.streams.stream("acme", run_id="x"):
                told.append(each)
                if len(told) == 4:
                    break
            assert kinds(told) == ["accepted", "heartbeat", "heartbeat", "heartbeat"]
            assert {each.cursor for each in told[1:]} == {told[0].cursor}
        held.go.set()
        assert kinds(await read(quick, cursor=told[-1].cursor))[-1] == "result"


async def test_a_run_that_fails_tells_the_error_last(one: Replica, two: Replica) -> None:
    async def work(live: LiveRun) -> Answer:
        raise NotFound("no such order")

    await one.runs.begin(new_run("x"), work, limit_s=100)
    await one.runs.wait("acme", "x")
    for where in (one, two):
        told = await read(where, run_id="x")
        assert kinds(told) == ["accepted", "error"]
        assert told[-1].error.status.message == "no such order"


async def test_a_cancelled_run_tells_so_in_every_process(one: Replica, two: Replica) -> None:
    held = Held()
    await one.runs.begin(new_run("x"), held, limit_s=100)
    readers = [asyncio.ensure_future(read(where, run_id="x")) for where in (one, two)]
    await held.began.wait()
    await two.runs.cancel("acme", "x")
    for told in await asyncio.gather(*readers):
        last = [each for each in told if not each.HasField("heartbeat")][-1]
        assert last.error.status.code == 1  # CANCELLED


async def test_no_tenant_reads_the_run_of_another(one: Replica, two: Replica) -> None:
    held = Held()
    await one.runs.begin(new_run("x"), held, limit_s=100)
    await held.began.wait()
    cursor = cursor_of(key_of("acme", "x"), Position(1, 0))
    for ended in (False, True):
        for where in (one, two):
            for which in ({"run_id": "x"}, {"cursor": cursor}):
                with pytest.raises(NotFound) as unknown:
                    await read(where, "other", **which)
                which_one = "run x" if "run_id" in which else "the run of this cursor"
                told = (unknown.value.reason_name, unknown.value.message)
                assert told == ("RUN_UNKNOWN", f"{which_one} is not known")
        if not ended:
            held.go.set()
            await one.runs.wait("acme", "x")


async def test_a_cursor_that_is_not_ours_is_refused(one: Replica) -> None:
    await one.runs.answer(new_run("x"), at_once, limit_s=10)
    ours = (await read(one, run_id="x"))[0].cursor
    packed = base64.urlsafe_b64decode(ours + "=" * (-len(ours) % 4))
    others = ["", "x", ours[:-1], ours + "A", ours + "=", ours.swapcase()]
    for place in range(len(packed)):
        changed = bytes(value ^ (place == at) for at, value in enumerate(packed))
        others.append(base64.urlsafe_b64encode(changed).decode().rstrip("="))
    for cursor in others[1:]:
        with pytest.raises(InvalidArgument) as refused:
            await read(one, cursor=cursor)
        assert refused.value.reason_name == "CURSOR_INVALID"


async def test_a_cursor_ahead_of_the_run_is_out_of_range(one: Replica) -> None:
    held = Held()
    await one.runs.begin(new_run("x"), held, limit_s=100)
    await held.began.wait()
    for ahead in (Position(9, 0), Position(1, 9), Position(1, 0, last=True)):
        with pytest.raises(OutOfRange):
            await read(one, cursor=cursor_of(key_of("acme", "x"), ahead))
    held.go.set()
    await one.runs.wait("acme", "x")


async def test_what_was_told_is_forgotten_after_a_while_and_read_from_the_store_then(
    one: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one.runs.begin(new_run("x"), Talking(), limit_s=100)
    first = await read(one, run_id="x")
    monkeypatch.setattr(one.runs, "_keep_s", 0)
    later = await read(one, run_id="x")
    assert told_of_tools(first) == told_of_tools(later)
    for n in range(3):
        await one.runs.begin(new_run(f"more-{n}"), Talking(), limit_s=100)
        await read(one, run_id=f"more-{n}")
    assert one.runs.remembered <= 1


async def test_unknown_runs_have_no_stream(one: Replica) -> None:
    with pytest.raises(NotFound):
        await read(one, run_id="nobody")
    with pytest.raises(MeshError) as unknown:
        await read(one, cursor=cursor_of(key_of("acme", "nobody"), Position(1, 0)))
    assert unknown.value.reason_name == "RUN_UNKNOWN"
