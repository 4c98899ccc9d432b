"""A running route with a real store and bus, and an eta whose answers a test decides."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, travel_time_pb2
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceServicer, add_EtaServiceServicer_to_server
from waymesh.feedback.v1.delivery_pb2 import LEG_KIND_TO_DESTINATION, LEG_KIND_TO_PICKUP, LEG_KIND_WAIT
from waymesh.gps.v1 import gps_pb2, vehicle_pb2
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1 import courier_pb2, order_pb2
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.mesh.client import ClientFactory
from services.mesh.events import EventBus, Message, Record, create_bus, encode_value
from services.mesh.retry import RetryPolicy
from services.mesh.settings import load
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry
from services.route.server import MIGRATIONS, Route
from services.route.settings import RouteSettings


class ScriptedEta(EtaServiceServicer):
    """Every way takes `minutes_per_leg`; food is ready `wait_minutes` after the courier comes."""

    def __init__(self) -> None:
        self.minutes_per_leg = 5.0
        self.wait_minutes = 0.0
        self.pause: asyncio.Event | None = None
        self.batches: list[eta_service_pb2.BatchPredictEtaRequest] = []
        self.matrices: list[travel_time_pb2.GetTravelTimesRequest] = []
        self.remaining_s: list[float] = []
        self.asked_for: list[Any] = []
        self.asked = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def GetTravelTimes(
        self, request: travel_time_pb2.GetTravelTimesRequest, context: Any
    ) -> travel_time_pb2.GetTravelTimesResponse:
        self.matrices.append(request)
        self.remaining_s.append(context.time_remaining())
        self.asked_for.append(dict(context.invocation_metadata()).get("x-waymesh-tenant"))
        await self._paused()
        values = [
            0 if a == b else round(60 * self.minutes_per_leg)
            for a in request.origins
            for b in request.destinations
        ]
        return travel_time_pb2.GetTravelTimesResponse(durations_s=values, distances_m=[v * 5 for v in values])

    async def BatchPredictEta(
        self, request: eta_service_pb2.BatchPredictEtaRequest, context: Any
    ) -> eta_service_pb2.BatchPredictEtaResponse:
        self.batches.append(request)
        self.remaining_s.append(context.time_remaining())
        self.asked_for.append(dict(context.invocation_metadata()).get("x-waymesh-tenant"))
        await self._paused()
        leg, wait = self.minutes_per_leg, self.wait_minutes
        return eta_service_pb2.BatchPredictEtaResponse(
            results=[
                eta_service_pb2.BatchPredictEtaResult(
                    prediction=eta_pb2.EtaPrediction(
                        order_id=query.order.order_id,
                        driver_id=query.driver_id,
                        pickup_eta_minutes=leg + wait,
                        delivery_eta_minutes=2 * leg + wait + 2,
                        legs=[
                            eta_pb2.Leg(kind=LEG_KIND_TO_PICKUP, minutes=leg),
                            eta_pb2.Leg(kind=LEG_KIND_WAIT, minutes=wait),
                            eta_pb2.Leg(kind=LEG_KIND_TO_DESTINATION, minutes=leg),
                        ],
                    )
                )
                for query in request.queries
            ]
        )

    async def _paused(self) -> None:
        self.asked.set()
        if self.pause is not None:
            try:
                await self.pause.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise


@dataclass
class Mesh:
    """A route process in this loop, with stubs and a bus of the test's own."""

    route: Route
    stub: Any
    eta: ScriptedEta
    store: Store
    bus: EventBus
    settings: RouteSettings
    target: str
    database: str
    news: asyncio.Condition
    seen: dict[str, list[Record]] = field(default_factory=dict)

    async def publish(
        self, topic: str, key: str, message: Any, event_id: str, content_type: str = ""
    ) -> None:
        kind = content_type or "application/protobuf"
        await self.publish_bytes(topic, key, encode_value(message, kind), event_id, kind)

    async def publish_bytes(
        self, topic: str, key: str, value: bytes, event_id: str, content_type: str = "application/protobuf"
    ) -> None:
        async with self.store.transaction() as conn:
            await self.bus.publish(conn, [Message(topic, key, value, event_id, "test", content_type)])

    async def until(self, topic: str, holds: Callable[[list[Record]], bool]) -> list[Record]:
        """Waits until something was published on the topic and all of it so far satisfies `holds`."""
        async with asyncio.timeout(60), self.news:
            await self.news.wait_for(lambda: bool(self.seen[topic]) and holds(self.seen[topic]))
        return self.seen[topic]


TOPICS = ("orders", "driver-allocations", "route-optimizations", "dead-letters")


@contextlib.asynccontextmanager
async def running(database: str, folder: Path, **overrides: Any) -> AsyncIterator[Mesh]:
    """Route on free ports. Ticks are far apart unless a test says otherwise. `eta_up=False`: nobody
    answers."""
    eta_up = overrides.pop("eta_up", True)
    eta, server = ScriptedEta(), grpc.aio.server()
    add_EtaServiceServicer_to_server(eta, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    if not eta_up:
        await server.stop(None)
    settings = load(
        RouteSettings,
        **{
            "data_dir": folder,
            "port": 0,
            "admin": 0,
            "eta_target": f"127.0.0.1:{port}",
            "feedback_target": "127.0.0.1:1",
            "drain_s": 0.0,
            "allocation_tick_s": 3600.0,
            "allocation_gap_s": 3600.0,
            "enable_outcome_logging": False,
            **overrides,
        },
    )
    route = Route(settings, database)
    store = await Store.open(database, schema="route", migrations=MIGRATIONS)
    bus = create_bus(settings, service="test", pool=store.pool)
    await bus.start()
    mesh = Mesh(route, None, eta, store, bus, settings, "", database, asyncio.Condition())
    for topic in TOPICS:
        mesh.seen[topic] = []

    async def note(records: list[Record]) -> None:
        async with mesh.news:
            for record in records:
                mesh.seen[record.topic].append(record)
            mesh.news.notify_all()

    reader = bus.broadcast(TOPICS, note)
    reading = asyncio.create_task(reader.run())
    clients = ClientFactory("test", telemetry=Telemetry("test"), retry=RetryPolicy(retries=0))
    try:
        await route.start()
        mesh.target = f"127.0.0.1:{route.server.port}"
        mesh.stub = clients.stub(RouteServiceStub, mesh.target)
        yield mesh
    finally:
        await clients.close()
        await route.stop()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await bus.close()
        await store.close()
        await server.stop(None)


def stamp(at: float) -> Timestamp:
    made = Timestamp()
    made.FromMicroseconds(round(at * 1e6))
    return made


def where(east_km: float, north_km: float = 0.0) -> Location:
    """A place in kilometres from a point on the equator."""
    return Location(lat=north_km / 111.195, lon=east_km / 111.195)


def order(name: str, pickup: Location | None = None, dropoff: Location | None = None, **more: Any) -> Any:
    return order_pb2.Order(
        **{
            "order_id": name,
            "revision": 1,
            "status": order_pb2.ORDER_STATUS_PLACED,
            "pickup": pickup or where(0),
            "dropoff": dropoff or where(3),
            "placed_at": stamp(time.time()),
            **more,
        }
    )


def courier(name: str, position: Location | None = None, **more: Any) -> Any:
    return courier_pb2.Courier(
        **{
            "driver_id": name,
            "revision": 1,
            "vehicle_type": vehicle_pb2.VEHICLE_TYPE_MOTORCYCLE,
            "status": courier_pb2.COURIER_STATUS_IDLE,
            "position": position or where(-1),
            **more,
        }
    )


def fix(driver: str, order_id: str, stage: int, at: float, place: Location | None = None, **more: Any) -> Any:
    return gps_pb2.GpsEvent(
        **{
            "driver_id": driver,
            "order_id": order_id,
            "location": place or where(-1),
            "speed_kph": 20.0,
            "trip_stage": stage,
            "traffic_density": gps_pb2.TRAFFIC_DENSITY_LIGHT,
            "zone_type": gps_pb2.ZONE_TYPE_MIXED,
            "timestamp": stamp(at),
            **more,
        }
    )


async def eventually(probe: Callable[[], Awaitable[Any]]) -> Any:
    """What `probe` gives once it gives something; for what only the store can tell."""
    async with asyncio.timeout(60):
        while not (found := await probe()):
            await asyncio.sleep(0.01)
    return found


async def rows(mesh: Mesh, query: str, *args: Any) -> list[asyncpg.Record]:
    return list(await mesh.store.pool.fetch(query, *args))
