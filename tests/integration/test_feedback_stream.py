"""StreamOutcomes on real PostgreSQL and real gRPC: each batch answered once it is durable, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.outcome_stream import IN_FLIGHT
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.client import ClientFactory
from services.mesh.errors import AlreadyExists, InvalidArgument, from_status
from services.mesh.store import connect
from services.mesh.telemetry import Telemetry

GUARD_S = 120.0


@pytest.fixture
async def feedback(database: str, tmp_path: Path) -> AsyncIterator[Feedback]:
    settings = FeedbackSettings(
        port=0, admin=0, data_dir=tmp_path, drain_s=0, enable_outcome_logging=False, database_url=None
    )
    service = Feedback(settings, database)
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def stub(feedback: Feedback) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{feedback.server.port}") as channel:
        yield FeedbackServiceStub(channel)


def event(name: str, **changes: Any) -> OutcomeEvent:
    made = OutcomeEvent(
        event_id=name, run_id="run", agent_name="agent", action_type="act", status=1, severity=1
    )
    made.timestamp.seconds = 1_700_000_000
    for field, value in changes.items():
        setattr(made, field, value)
    return made


def batch(cursor: str, *events: OutcomeEvent) -> pb.StreamOutcomesRequest:
    return pb.StreamOutcomesRequest(cursor=cursor, events=events)


async def sent(stub: Any, *batches: pb.StreamOutcomesRequest) -> list[pb.StreamOutcomesResponse]:
    async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
        for one in batches:
            yield one

    async with asyncio.timeout(GUARD_S):
        return [answer async for answer in stub.StreamOutcomes(requests())]


async def broken(call: Any) -> tuple[list[str], grpc.StatusCode]:
    """The marks that came back, and how the stream ended."""
    cursors: list[str] = []
    try:
        async with asyncio.timeout(GUARD_S):
            async for answer in call:
                cursors.append(answer.cursor)  # noqa: PERF401 - what came before the break counts
    except grpc.aio.AioRpcError as error:
        return cursors, error.code()
    return cursors, grpc.StatusCode.OK


async def stored_ids(database: str) -> list[str]:
    connection = await connect(database)
    try:
        return [
            row["id"] for row in await connection.fetch("SELECT id FROM feedback.outcomes ORDER BY number")
        ]
    finally:
        await connection.close()


async def test_each_batch_is_answered_in_order_with_its_own_mark(stub: Any, database: str) -> None:
    total = 4 * IN_FLIGHT
    answers = await sent(
        stub, *(batch(f"c{n}", *(event(f"e{n}-{m}") for m in range(n % 4))) for n in range(total))
    )
    assert [(one.cursor, one.stored, one.duplicates) for one in answers] == [
        (f"c{n}", n % 4, 0) for n in range(total)
    ]
    assert await stored_ids(database) == [f"e{n}-{m}" for n in range(total) for m in range(n % 4)]


async def test_a_bad_outcome_is_refused_on_its_own_and_says_why(stub: Any, database: str) -> None:
    await sent(stub, batch("", event("known")))
    (answer,) = await sent(
        stub,
        batch(
            "mark",
            event("good-1"),
            event("nameless", agent_name=""),
            event("known"),
            event("known", agent_type="other"),
            event("zero", run_id="a\0b"),
            event("good-2"),
        ),
    )
    assert (answer.cursor, answer.stored, answer.duplicates) == ("mark", 2, 1)
    assert [(one.index, one.id) for one in answer.refused] == [(1, "nameless"), (3, "known"), (4, "zero")]
    errors = [from_status(one.error) for one in answer.refused]
    assert [type(one) for one in errors] == [InvalidArgument, AlreadyExists, InvalidArgument]
    assert [errors[0].violations[0].field, errors[2].violations[0].field] == ["agent_name", "run_id"]
    assert await stored_ids(database) == ["known", "good-1", "good-2"]


async def test_secrets_are_redacted_on_this_way_too(stub: Any, database: str) -> None:
    secret = event("a", error_message="postgresql://user:hunter2@db refused")
    secret.input.update({"password": "hunter2", "note": "ok"})
    await sent(stub, batch("", secret))
    listed = await stub.ListOutcomes(pb.ListOutcomesRequest(), timeout=GUARD_S)
    assert "hunter2" not in str(listed)
    assert listed.events[0].input["note"] == "ok"
    assert (await sent(stub, batch("", secret)))[0].duplicates == 1


async def test_a_batch_that_is_too_large_ends_the_stream_after_those_before_it(
    stub: Any, database: str
) -> None:
    async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
        yield batch("good", event("a"))
        yield batch("bad", *(event(f"e{n}") for n in range(1001)))

    assert await broken(stub.StreamOutcomes(requests())) == (["good"], grpc.StatusCode.INVALID_ARGUMENT)
    assert await stored_ids(database) == ["a"]


async def test_a_sender_that_goes_away_leaves_nothing_running(feedback: Feedback, stub: Any) -> None:
    endless = asyncio.Event()

    async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
        yield batch("one", event("a"))
        await endless.wait()

    before = asyncio.all_tasks()
    call = stub.StreamOutcomes(requests())
    async with asyncio.timeout(GUARD_S):
        assert (await call.read()).cursor == "one"
        call.cancel()
        while {task for task in asyncio.all_tasks() - before if "outcome_stream" in repr(task.get_coro())}:
            await asyncio.sleep(0.01)
    answers = await sent(stub, batch("two", event("a")))
    assert answers[0].duplicates == 1


async def test_a_deadline_ends_the_stream_and_what_was_answered_is_there(stub: Any, database: str) -> None:
    async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
        yield batch("one", event("a"))
        await asyncio.Event().wait()

    cursors, code = await broken(stub.StreamOutcomes(requests(), timeout=3))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert cursors in ([], ["one"])
    assert not cursors or await stored_ids(database) == ["a"]


async def test_while_the_store_is_away_the_stream_says_so_and_a_repeat_finds_what_is_there(
    feedback: Feedback, stub: Any, database: str
) -> None:
    held = asyncio.Event()

    async def requests() -> AsyncIterator[pb.StreamOutcomesRequest]:
        yield batch("one", event("a"))
        await held.wait()
        for n in range(IN_FLIGHT * 2):
            yield batch(f"more-{n}", event(f"b{n}"))

    blocker = await connect(database)

    async def cut() -> None:
        """Whoever waits for the head loses its connection."""
        while not await stored_ids(database):
            await asyncio.sleep(0.02)
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT 1 FROM feedback.heads WHERE kind = 'outcome' FOR UPDATE")
        held.set()
        while not await blocker.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)

    cutting = asyncio.create_task(cut())
    cursors, code = await broken(stub.StreamOutcomes(requests()))
    await cutting
    await blocker.close()
    assert (cursors, code) == (["one"], grpc.StatusCode.UNAVAILABLE)
    answers = await sent(stub, batch("again", event("a"), *(event(f"b{n}") for n in range(IN_FLIGHT * 2))))
    assert answers[0].duplicates >= 1
    assert answers[0].stored + answers[0].duplicates == IN_FLIGHT * 2 + 1


async def test_one_outcome_by_itself(feedback: Feedback) -> None:
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    stub = clients.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}")

    async def record(one: OutcomeEvent) -> pb.RecordOutcomeResponse:
        return await stub.RecordOutcome(pb.RecordOutcomeRequest(event=one), timeout=GUARD_S)

    assert await record(event("a")) == pb.RecordOutcomeResponse(event_id="a")
    assert await record(event("a")) == pb.RecordOutcomeResponse(event_id="a", duplicate=True)
    with pytest.raises(AlreadyExists):
        await record(event("a", agent_type="other"))
    with pytest.raises(InvalidArgument) as refused:
        await record(event("a", agent_name=""))
    assert refused.value.violations[0].field == "event.agent_name"
    await clients.close()
