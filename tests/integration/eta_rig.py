"""eta as it runs, on a real PostgreSQL, with feedback beside it if a test wants it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, StreamGpsRequest
from waymesh.gps.v1.gps_pb2 import GpsEvent, TripStage
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.feedback.server import Feedback
from services.feedback.settings import FeedbackSettings
from services.mesh.client import ClientFactory
from services.mesh.events import PROTOBUF, EventBus, Message, Record, create_bus
from services.mesh.settings import load
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

GUARD_S = 120.0
# 2024-08-28T10:30:00Z
START_S = 1_724_841_000


class Rig:
    """One eta and what a test needs around it."""

    def __init__(self, stack: AsyncExitStack, dsn: str, folder: Path) -> None:
        self._stack = stack
        self.dsn = dsn
        self._folder = folder
        # Nobody listens there; with feedback beside it, outcomes are recorded too.
        self._options: dict[str, Any] = {
            "data_dir": folder,
            "feedback_target": "127.0.0.1:1",
            "enable_outcome_logging": False,
        }
        self.telemetry = Telemetry.create("test")
        self.store: Store
        self.bus: EventBus

    async def open(self) -> None:
        """The test's own door to the bus."""
        empty = self._folder / "no-migrations"
        empty.mkdir()
        self.store = await Store.open(self.dsn, schema="test", migrations=empty)
        self._stack.push_async_callback(self.store.close)
        self.bus = create_bus(load(EtaSettings), service="test", pool=self.store.pool)
        await self.bus.start()
        self._stack.push_async_callback(self.bus.close)

    async def with_feedback(self) -> Feedback:
        settings = load(FeedbackSettings, data_dir=self._folder, port=0, admin=0, drain_s=0.0)
        feedback = Feedback(settings, self.dsn)
        await feedback.start()
        self._stack.push_async_callback(feedback.stop)
        self._options |= {
            "feedback_target": f"127.0.0.1:{feedback.server.port}",
            "enable_outcome_logging": True,
        }
        return feedback

    async def start(self, **options: Any) -> Eta:
        """A served eta; it ends with the test if it was not ended before."""
        settings = load(EtaSettings, port=0, admin=0, drain_s=0.0, **(self._options | options))
        eta = Eta(settings, self.dsn)
        self._stack.push_async_callback(eta.stop)
        await eta.start()
        return eta

    def stub(self, eta: Eta) -> Any:
        factory = ClientFactory("test", telemetry=self.telemetry)
        self._stack.push_async_callback(factory.close)
        return factory.stub(EtaServiceStub, f"127.0.0.1:{eta.server.port}")

    async def publish(self, *messages: Message) -> None:
        async with self.store.transaction() as conn:
            await self.bus.publish(conn, messages)

    async def place(self, *orders: Order) -> None:
        """Orders, as route would publish them."""
        await self.publish(
            *(
                Message(
                    topic="orders",
                    key=order.order_id,
                    value=OrderEvent(order=order).SerializeToString(),
                    event_id=f"{order.order_id}@{order.revision}",
                    type="waymesh.order.v1.OrderEvent",
                    content_type=PROTOBUF,
                )
                for order in orders
            )
        )

    async def published(self) -> list[EtaPrediction]:
        """Everything on eta-predictions, in the order of its partitions."""
        return [EtaPrediction.FromString(record.value) for record in await self.records("eta-predictions")]

    async def dead(self) -> list[bytes]:
        return [record.value for record in await self.records("dead-letters")]

    async def records(self, topic: str) -> list[Record]:
        """Everything on a topic, in the order of its partitions."""
        found: list[Record] = []

        async def take(records: Sequence[Record]) -> None:
            found.extend(records)

        reader = self.bus.broadcast([topic], take, from_start=True)
        task = asyncio.create_task(reader.run())
        try:
            async with asyncio.timeout(GUARD_S):
                await reader.caught_up.wait()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return found

    async def until(self, holds: Callable[[], Any], what: str) -> None:
        """Looks again and again, for events that leave no other trace; the guard only ends a broken test."""
        try:
            async with asyncio.timeout(GUARD_S):
                while not await holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"never came true: {what}") from None

    async def row(self, query: str, *arguments: Any) -> asyncpg.Record:
        return await self.store.pool.fetchrow(query, *arguments)


@asynccontextmanager
async def rig(dsn: str, folder: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        made = Rig(stack, dsn, folder)
        await made.open()
        yield made


def order(number: int) -> Order:
    made = Order(order_id=f"order_{number}", revision=1, status=OrderStatus.ORDER_STATUS_ASSIGNED)
    made.driver_id = f"driver_{number}"
    made.pickup.lat, made.pickup.lon = -23.55, -46.63
    made.dropoff.lat, made.dropoff.lon = -23.52, -46.63
    made.placed_at.seconds = START_S
    return made


def way(number: int, *, fixes: int = 40, every_s: int = 30) -> list[GpsEvent]:
    """A courier's way from pickup to dropoff."""
    events = []
    for step in range(fixes):
        stage = TripStage.TRIP_STAGE_TO_DESTINATION
        if step == 0:
            stage = TripStage.TRIP_STAGE_AT_PICKUP
        elif step == fixes - 1:
            stage = TripStage.TRIP_STAGE_DELIVERED
        event = GpsEvent(
            driver_id=f"driver_{number}",
            order_id=f"order_{number}",
            speed_kph=20,
            trip_stage=stage,
            traffic_density=2,
            zone_type=1,
        )
        event.location.lat, event.location.lon = -23.55 + 0.03 * step / fixes, -46.63
        event.timestamp.seconds = START_S + step * every_s
        events.append(event)
    return events


async def stream(stub: Any, events: Sequence[GpsEvent], size: int = 50) -> None:
    async def requests() -> AsyncIterator[StreamGpsRequest]:
        for start in range(0, len(events), size):
            yield StreamGpsRequest(events=events[start : start + size])

    async for response in stub.StreamGps(requests()):
        assert not response.rejected


async def counted(mesh: Rig, stub: Any, total: int) -> Any:
    """Stats once that many fixes were counted, in whatever way."""

    async def all_there() -> bool:
        stats = await stub.GetGpsStats(GetGpsStatsRequest())
        return bool(stats.fixes + stats.duplicates + stats.conflicts >= total)

    await mesh.until(all_there, f"{total} fixes are counted")
    return await stub.GetGpsStats(GetGpsStatsRequest())
