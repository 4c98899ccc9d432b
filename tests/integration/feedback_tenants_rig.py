"""feedback as several tenants see it, who have all chosen the same ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.client import ClientFactory
from services.mesh.events import EventBus, Record, create_bus
from services.mesh.principal import MESH_TENANT, Principal, acting
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

if TYPE_CHECKING:
    from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceAsyncStub

ACME, RIVAL, DEFAULT, MESH = "acme", "rival", "default", MESH_TENANT
TENANTS = (ACME, RIVAL, DEFAULT)
# Such as the names of things of another tenant look within the service, and of rules, and of windows.
ODD_IDS = ("x", "acme/x", "default/x", "rival/", "/x", "*/x", "acme", "x/y/z", "60s/x", "p95_latency/x")
# As long as the contract lets a tenant's ids be; qualified they are longer.
LONGEST = "ä" * 128
GUARD_S = 60.0


def outcome(event_id: str = "event", **changes: object) -> OutcomeEvent:
    """The same for every tenant, but for what it says was spent."""
    made = OutcomeEvent(
        event_id=event_id,
        run_id="run",
        agent_name="agent",
        action_type="act",
        workflow_id="workflow",
        correlation_id="request",
        parent_event_id="parent",
        status=OutcomeStatus.OUTCOME_STATUS_SUCCESS,
        severity=Severity.SEVERITY_INFO,
        latency_ms=5,
    )
    made.timestamp.FromDatetime(datetime.now(UTC))
    made.MergeFrom(OutcomeEvent(**changes))  # type: ignore[arg-type]
    return made


def delivery(outcome_id: str = "delivery", **changes: object) -> DeliveryOutcome:
    made = DeliveryOutcome(outcome_id=outcome_id, order_id="order", driver_id="courier")
    made.context.merchant_id = "merchant"
    made.predicted_at.FromSeconds(1_700_000_000)
    made.delivered_at.FromSeconds(1_700_000_900)
    made.MergeFrom(DeliveryOutcome(**changes))  # type: ignore[arg-type]
    return made


def signal(signal_id: str, subject: str = "courier", *, active: bool = True) -> Signal:
    made = Signal(
        signal_id=signal_id,
        kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        source="eta",
        subject=subject,
        severity=Severity.SEVERITY_WARNING,
        active=active,
    )
    made.timestamp.FromDatetime(datetime.now(UTC))
    return made


@dataclass
class Tenants:
    """One service, and calls that are made for one tenant or another."""

    database: Store
    stub: FeedbackServiceAsyncStub
    bus: EventBus

    async def record(self, tenant: str, *events: OutcomeEvent) -> pb.RecordOutcomesResponse:
        with acting(Principal(tenant)):
            return await self.stub.RecordOutcomes(pb.RecordOutcomesRequest(events=events), timeout=10)

    async def listed(self, tenant: str, **wanted: object) -> pb.ListOutcomesResponse:
        with acting(Principal(tenant)):
            return await self.stub.ListOutcomes(pb.ListOutcomesRequest(**wanted), timeout=10)  # type: ignore[arg-type]

    async def delivered(self, tenant: str, *outcomes: DeliveryOutcome) -> pb.RecordDeliveryOutcomesResponse:
        request = pb.RecordDeliveryOutcomesRequest(outcomes=outcomes)
        with acting(Principal(tenant)):
            return await self.stub.RecordDeliveryOutcomes(request, timeout=10)

    async def deliveries(self, tenant: str, **wanted: object) -> pb.ListDeliveryOutcomesResponse:
        request = pb.ListDeliveryOutcomesRequest(**wanted)  # type: ignore[arg-type]
        with acting(Principal(tenant)):
            return await self.stub.ListDeliveryOutcomes(request, timeout=10)

    async def signal(self, tenant: str, *signals: Signal) -> pb.RecordSignalsResponse:
        with acting(Principal(tenant)):
            return await self.stub.RecordSignals(pb.RecordSignalsRequest(signals=signals), timeout=10)

    async def on_topic(self, topic: str) -> list[Record]:
        """All of it so far."""
        found: list[Record] = []

        async def read(records: Sequence[Record]) -> None:
            found.extend(records)

        reader = self.bus.broadcast([topic], read)
        running = asyncio.create_task(reader.run())
        async with asyncio.timeout(GUARD_S):
            await reader.caught_up.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return found


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not await reached():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def tenants(database: str, folder: Path, **settings: object) -> AsyncIterator[Tenants]:
    """A service of its own, with a bus and a store to look into."""
    given = FeedbackSettings(
        port=0, admin=0, data_dir=folder, drain_s=0, database_url=None,
        **{"enable_outcome_logging": False, **settings},
    )  # fmt: skip
    feedback = Feedback(given, database)
    await feedback.start()
    store = await Store.open(database, schema="feedback", migrations=Path("services/feedback/migrations"))
    bus = create_bus(given, service="test", pool=store.pool)
    await bus.start()
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    try:
        yield Tenants(store, clients.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}"), bus)
    finally:
        await clients.close()
        await bus.close()
        await store.close()
        await feedback.stop()
