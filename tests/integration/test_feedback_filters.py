"""Lists of outcomes against a model of them: filtered first, newest first, then cut; counts by agent."""

import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity

from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.client import ClientFactory
from services.mesh.telemetry import Telemetry

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
STATUSES = [number for number in OutcomeStatus.values() if number]


@pytest.fixture
async def stub(database: str, tmp_path: Path) -> AsyncIterator[Any]:
    settings = FeedbackSettings(
        port=0, admin=0, data_dir=tmp_path, drain_s=0, enable_outcome_logging=False, database_url=None
    )
    feedback = Feedback(settings, database)
    await feedback.start()
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    yield clients.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}")
    await clients.close()
    await feedback.stop()


def outcomes(dice: random.Random, count: int) -> Iterator[OutcomeEvent]:
    """Few agents, workflows and times, so that filters match some and times are shared."""
    for number in range(count):
        made = OutcomeEvent(
            event_id=f"event-{number}",
            run_id="run",
            agent_name=dice.choice("ab%_"),
            action_type="act",
            workflow_id=dice.choice(["", "w", "W"]),
            status=dice.choice(STATUSES),  # type: ignore[arg-type]
            severity=Severity.SEVERITY_INFO,
        )
        made.timestamp.FromDatetime(NOON + timedelta(seconds=dice.randrange(20), microseconds=number % 3))
        yield made


def request(dice: random.Random) -> pb.ListOutcomesRequest:
    made = pb.ListOutcomesRequest(
        page_size=dice.choice([1, 3, 7, 1000]),
        statuses=dice.sample(STATUSES, dice.randrange(4)),  # type: ignore[arg-type]
        agent_name=dice.choice(["", "", "a", "%", "nobody"]),
        workflow_id=dice.choice(["", "", "w"]),
    )
    first, last = sorted(dice.choices(range(20), k=2))
    if dice.random() < 0.4:
        made.start_time.FromDatetime(NOON + timedelta(seconds=first))
    if dice.random() < 0.4:
        made.end_time.FromDatetime(NOON + timedelta(seconds=last))
    return made


def matches(event: OutcomeEvent, wanted: pb.ListOutcomesRequest) -> bool:
    at = event.timestamp.ToNanoseconds()
    return (
        (not wanted.statuses or event.status in wanted.statuses)
        and wanted.agent_name in ("", event.agent_name)
        and wanted.workflow_id in ("", event.workflow_id)
        and (not wanted.HasField("start_time") or at >= wanted.start_time.ToNanoseconds())
        and (not wanted.HasField("end_time") or at < wanted.end_time.ToNanoseconds())
    )


async def test_every_filter_gives_what_the_model_gives_page_by_page(stub: Any) -> None:
    dice = random.Random(20260101)
    stored = list(outcomes(dice, 150))
    await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=stored))
    newest_first = sorted(
        range(len(stored)), key=lambda n: (stored[n].timestamp.ToNanoseconds(), n), reverse=True
    )
    some = 0
    for _ in range(120):
        wanted = request(dice)
        model = [stored[n] for n in newest_first if matches(stored[n], wanted)]
        found: list[OutcomeEvent] = []
        while True:
            page = await stub.ListOutcomes(wanted)
            assert len(page.events) <= wanted.page_size
            found += page.events
            if not page.next_page_token:
                break
            assert len(page.events) == wanted.page_size
            wanted.page_token = page.next_page_token
        assert found == model
        some += bool(model)
    assert some > 40


async def test_counts_are_those_of_the_model(stub: Any) -> None:
    dice = random.Random(7)
    stored = list(outcomes(dice, 150))
    await stub.RecordOutcomes(pb.RecordOutcomesRequest(events=stored))
    status = OutcomeStatus
    for start in (None, *(NOON + timedelta(seconds=n) for n in (0, 5, 19, 30))):
        for agent in ("", "a", "%", "nobody"):
            wanted = pb.ListFailureCountsRequest(agent_name=agent)
            # Absent means the last hour, which these outcomes are not of.
            from_ns = 2**63
            if start is not None:
                wanted.start_time.FromDatetime(start)
                from_ns = wanted.start_time.ToNanoseconds()
            counted = (await stub.ListFailureCounts(wanted)).agents
            model: dict[str, list[int]] = {}
            for event in stored:
                if event.timestamp.ToNanoseconds() >= from_ns and agent in ("", event.agent_name):
                    model.setdefault(event.agent_name, []).append(event.status)
            assert {
                one.agent_name: (one.total, one.failures, one.timeouts, one.cancelled, one.partial)
                for one in counted
            } == {
                name: (
                    len(ended),
                    ended.count(status.OUTCOME_STATUS_FAILURE),
                    ended.count(status.OUTCOME_STATUS_TIMEOUT),
                    ended.count(status.OUTCOME_STATUS_CANCELLED),
                    ended.count(status.OUTCOME_STATUS_PARTIAL),
                )
                for name, ended in model.items()
            }
            assert [one.agent_name for one in counted] == sorted(model, key=lambda name: name.encode())
