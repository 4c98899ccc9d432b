"""feedback on real PostgreSQL and real gRPC: everything once, in an order that cursors can trust."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind
from waymesh.mesh.v1 import error_reason_pb2 as reasons

from services.feedback.cursors import number_token
from services.feedback.intake import Intake
from services.feedback.server import MIGRATIONS, Feedback
from services.feedback.settings import FeedbackSettings
from services.feedback.store import Fate
from services.mesh import json_codec
from services.mesh.client import ClientFactory
from services.mesh.errors import AlreadyExists, InvalidArgument, OutOfRange
from services.mesh.events import JSON, Message, create_bus
from services.mesh.feedback.outcome import outcome
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
WIRE = [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "wire").glob("outcome_*.json"))]


def settings(tmp_path: Path) -> FeedbackSettings:
    return FeedbackSettings(
        port=0, admin=0, data_dir=tmp_path, drain_s=0, enable_outcome_logging=False, database_url=None
    )


@pytest.fixture
async def feedback(database: str, tmp_path: Path) -> AsyncIterator[Feedback]:
    service = Feedback(settings(tmp_path), database)
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def stub(feedback: Feedback) -> AsyncIterator[FeedbackServiceAsyncStub]:
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    yield clients.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}")
    await clients.close()


def event(
    number: int, *, status: OutcomeStatus.ValueType = OutcomeStatus.OUTCOME_STATUS_SUCCESS
) -> OutcomeEvent:
    made = outcome(
        agent_name=f"agent-{number % 2}",
        agent_type="engine",
        action_type="work",
        started=NOW + timedelta(seconds=number),
        duration_ms=1.0,
        status=status,
    )
    made.event_id = f"event-{number}"
    made.run_id = "run"
    return made


def delivery(number: int) -> DeliveryOutcome:
    made = DeliveryOutcome(
        outcome_id=f"outcome-{number}",
        order_id=f"order-{number % 3}",
        driver_id="driver",
        p50_minutes=10,
        p90_minutes=20,
    )
    made.predicted_at.FromDatetime(NOW)
    made.delivered_at.FromDatetime(NOW + timedelta(minutes=number))
    return made


async def record(stub: FeedbackServiceAsyncStub, *events: OutcomeEvent) -> pb.RecordOutcomesResponse:
    return await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=events), timeout=10)


async def listed(stub: FeedbackServiceAsyncStub, **wanted: object) -> list[str]:
    answer = await stub.ListOutcomes(pb.ListOutcomesRequest(**wanted), timeout=10)
    return [one.event_id for one in answer.events]


@pytest.mark.parametrize("wire", WIRE)
async def test_the_wire_examples_come_back_field_by_field(
    stub: FeedbackServiceAsyncStub, wire: bytes
) -> None:
    sent = json_codec.decode(OutcomeEvent, wire)
    await record(stub, sent)
    answer = await stub.ListOutcomes(pb.ListOutcomesRequest(), timeout=10)
    back = json.loads(json_codec.encode(answer.events[0]))
    # A whole second is written without its fraction: the same time.
    expected = json.loads(wire.replace(b".000Z", b"Z"))
    assert {key: back[key] for key in expected} == expected


async def test_the_same_outcome_again_changes_nothing_and_other_content_is_refused(
    stub: FeedbackServiceAsyncStub,
) -> None:
    first = await record(stub, event(1))
    assert (first.stored, first.duplicate) == (1, False)
    again = await record(stub, event(1))
    assert (again.stored, again.duplicate) == (0, True)
    with pytest.raises(AlreadyExists) as refused:
        await record(stub, event(1, status=OutcomeStatus.OUTCOME_STATUS_FAILURE))
    assert refused.value.reason == reasons.ERROR_REASON_CONFLICTING_CONTENT
    assert refused.value.metadata == {"id": "event-1"}
    assert await listed(stub) == ["event-1"]


async def test_what_the_store_refuses_fails_its_own_caller_alone(database: str, tmp_path: Path) -> None:
    store = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    bus = create_bus(settings(tmp_path), service="feedback", pool=store.pool)
    await bus.start()
    intake = Intake(store, bus)
    wrong = event(1)
    wrong.event_id = "\0"  # no text of PostgreSQL holds it; the server's rules keep it away from here
    answers = await asyncio.gather(
        *(intake.outcomes([one]) for one in (event(0), wrong, event(2))), return_exceptions=True
    )
    assert [answers[0], answers[2]] == [[Fate.STORED], [Fate.STORED]]
    assert isinstance(answers[1], asyncpg.PostgresError)
    await intake.close()
    await bus.close()
    await store.close()


async def test_a_batch_tells_the_fate_of_each_item(stub: FeedbackServiceAsyncStub) -> None:
    await record(stub, event(1))
    other = event(1, status=OutcomeStatus.OUTCOME_STATUS_FAILURE)
    answer = await record(stub, event(1), event(2), event(2), other)
    assert (answer.stored, answer.duplicate) == (1, False)
    assert [result.duplicate for result in answer.results] == [True, False, True, False]
    assert [result.error.code for result in answer.results] == [
        0,
        0,
        0,
        grpc.StatusCode.ALREADY_EXISTS.value[0],
    ]


async def test_outcomes_are_filtered_first_and_cut_into_pages_then(stub: FeedbackServiceAsyncStub) -> None:
    failed = OutcomeStatus.OUTCOME_STATUS_FAILURE
    await record(stub, *(event(n, status=failed if n % 5 == 0 else 1) for n in range(20)))
    assert await listed(stub, statuses=[failed]) == ["event-15", "event-10", "event-5", "event-0"]
    assert await listed(stub, statuses=[failed], agent_name="agent-1") == ["event-15", "event-5"]
    pages, token = [], ""
    while True:
        answer = await stub.ListOutcomes(
            pb.ListOutcomesRequest(page_size=7, page_token=token, agent_name="agent-0"), timeout=10
        )
        pages.append([one.event_id for one in answer.events])
        token = answer.next_page_token
        if not token:
            break
    assert pages == [[f"event-{n}" for n in range(18, 4, -2)], [f"event-{n}" for n in range(4, -1, -2)]]


@pytest.mark.parametrize("token", ["x", "AAAA", "bm90IG91cnM", "////"])
async def test_a_token_that_is_not_ours_is_refused_with_its_field(
    stub: FeedbackServiceAsyncStub, token: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await stub.ListOutcomes(pb.ListOutcomesRequest(page_token=token), timeout=10)
    assert refused.value.reason == reasons.ERROR_REASON_CURSOR_INVALID
    assert refused.value.violations[0].field == "page_token"


async def test_a_cursor_ahead_of_what_is_stored_is_out_of_range(stub: FeedbackServiceAsyncStub) -> None:
    await record(stub, event(1), event(2))
    watch = stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=number_token(2)), timeout=30)
    assert (await anext(aiter(watch))).cursor == number_token(2)
    watch.cancel()
    with pytest.raises(OutOfRange) as ahead:
        await anext(aiter(stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=number_token(3)), timeout=30)))
    assert ahead.value.reason == reasons.ERROR_REASON_CURSOR_INVALID
    assert ahead.value.violations[0].field == "cursor"
    with pytest.raises(OutOfRange) as ahead:
        await stub.ListDeliveryOutcomes(
            pb.ListDeliveryOutcomesRequest(page_token=number_token(1)), timeout=10
        )
    assert ahead.value.violations[0].field == "page_token"


async def test_deliveries_come_in_the_order_of_storing_and_a_token_goes_on_later(
    stub: FeedbackServiceAsyncStub,
) -> None:
    async def after(token: str) -> pb.ListDeliveryOutcomesResponse:
        return await stub.ListDeliveryOutcomes(
            pb.ListDeliveryOutcomesRequest(page_size=3, page_token=token), timeout=10
        )

    await stub.RecordDeliveryOutcomes(
        pb.RecordDeliveryOutcomesRequest(outcomes=[delivery(n) for n in (5, 1, 3, 2)]), timeout=10
    )
    first = await after("")
    assert [one.outcome_id for one in first.outcomes] == ["outcome-5", "outcome-1", "outcome-3"]
    assert first.has_more
    second = await after(first.next_page_token)
    assert [one.outcome_id for one in second.outcomes] == ["outcome-2"]
    assert not second.has_more
    empty = await after(second.next_page_token)
    assert (list(empty.outcomes), empty.next_page_token) == ([], second.next_page_token)
    await stub.RecordDeliveryOutcomes(
        pb.RecordDeliveryOutcomesRequest(outcomes=[delivery(5), delivery(9)]), timeout=10
    )
    assert [one.outcome_id for one in (await after(empty.next_page_token)).outcomes] == ["outcome-9"]


async def test_a_reader_beside_many_writers_sees_every_delivery_once(stub: FeedbackServiceAsyncStub) -> None:
    total = 200

    async def write(number: int) -> None:
        await stub.RecordDeliveryOutcomes(
            pb.RecordDeliveryOutcomesRequest(outcomes=[delivery(number)]), timeout=30
        )

    writers = asyncio.gather(*(write(number) for number in range(total)))
    seen: list[str] = []
    token = ""
    async with asyncio.timeout(60):
        while len(seen) < total:
            answer = await stub.ListDeliveryOutcomes(
                pb.ListDeliveryOutcomesRequest(page_token=token), timeout=10
            )
            seen += [one.outcome_id for one in answer.outcomes]
            token = answer.next_page_token
    await writers
    assert sorted(seen) == sorted(f"outcome-{number}" for number in range(total))


async def test_a_watch_goes_on_behind_its_cursor_without_loss_or_repeat(
    stub: FeedbackServiceAsyncStub,
) -> None:
    watch = stub.WatchOutcomes(pb.WatchOutcomesRequest()).__aiter__()
    cursor = (await anext(watch)).cursor
    await record(stub, event(1), event(2))
    got = [await anext(watch), await anext(watch)]
    assert [one.event.event_id for one in got] == ["event-1", "event-2"]
    await record(stub, event(3))
    resumed = stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=got[0].cursor)).__aiter__()
    assert (await anext(resumed)).cursor == got[0].cursor
    assert [(await anext(resumed)).event.event_id for _ in range(2)] == ["event-2", "event-3"]
    filtered = stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor=cursor, agent_name="agent-0")).__aiter__()
    await anext(filtered)
    assert (await anext(filtered)).event.event_id == "event-2"


async def test_counts_are_by_agent_and_status(stub: FeedbackServiceAsyncStub) -> None:
    status = OutcomeStatus
    await record(
        stub,
        event(0, status=status.OUTCOME_STATUS_FAILURE),
        event(2, status=status.OUTCOME_STATUS_TIMEOUT),
        event(4, status=status.OUTCOME_STATUS_PARTIAL),
        event(1, status=status.OUTCOME_STATUS_CANCELLED),
    )
    request = pb.ListFailureCountsRequest()
    request.start_time.FromDatetime(NOW - timedelta(days=1))
    agents = (await stub.ListFailureCounts(request, timeout=10)).agents
    assert [(a.agent_name, a.total, a.failures, a.timeouts, a.cancelled, a.partial) for a in agents] == [
        ("agent-0", 3, 1, 1, 0, 1),
        ("agent-1", 1, 0, 0, 1, 0),
    ]


async def test_signals_are_stored_once(stub: FeedbackServiceAsyncStub) -> None:
    signal = Signal(
        signal_id="s-1",
        kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        source="eta",
        subject="driver_1",
        severity=2,
        active=True,
    )
    signal.timestamp.FromDatetime(NOW)
    request = pb.RecordSignalsRequest(signals=[signal])
    assert (await stub.RecordSignals(request, timeout=10)).stored == 1
    assert (await stub.RecordSignals(request, timeout=10)).duplicate


async def test_secrets_are_redacted_before_they_are_stored(
    stub: FeedbackServiceAsyncStub, database: str
) -> None:
    secret = event(1)
    secret.input.update({"password": "hunter2", "note": "ok"})
    secret.error_message = "postgresql://user:hunter2@db refused"
    await record(stub, secret)
    answer = await stub.ListOutcomes(pb.ListOutcomesRequest(), timeout=10)
    assert "hunter2" not in str(answer)
    assert answer.events[0].input["note"] == "ok"


async def test_outcomes_from_the_topic_are_stored_and_bad_ones_become_dead_letters(
    feedback: Feedback, stub: FeedbackServiceAsyncStub, database: str, tmp_path: Path
) -> None:
    store = await Store.open(database, schema="feedback", migrations=Path("services/feedback/migrations"))
    bus = create_bus(settings(tmp_path), service="test", pool=store.pool)
    await bus.start()

    def message(event_id: str, value: bytes) -> Message:
        return Message(
            topic="agent-outcomes",
            key="run",
            value=value,
            event_id=event_id,
            type="waymesh.feedback.v1.OutcomeEvent",
            content_type=JSON,
        )

    async with store.transaction() as connection:
        await bus.publish(
            connection,
            [message("bad-1", b"{"), message("bad-2", b'{"event_id":"x"}'), message("good", WIRE[-1])],
        )
    watch = stub.WatchOutcomes(pb.WatchOutcomesRequest(cursor="")).__aiter__()
    await anext(watch)
    async with asyncio.timeout(60):
        while not await listed(stub):
            await record(stub, event(99))
            await anext(watch)
    letters: list[str] = []
    done = asyncio.Event()

    async def read(records: list[object]) -> None:
        letters.extend(one.event_id for one in records)
        if len(letters) >= 2:
            done.set()

    reader = asyncio.create_task(bus.broadcast(["dead-letters"], read).run())
    async with asyncio.timeout(60):
        await done.wait()
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    await bus.close()
    await store.close()
    assert len(letters) == 2
