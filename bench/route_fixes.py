"""How many fixes a second route takes in: position memory, progress of orders, triggers, all in transactions.

Fixes of couriers who each carry one order (to_pickup, to_destination, delivered) wait in `gps-events` of an
embedded PostgreSQL (fsync on); then route's consumer starts and reads until it has caught up. CPU seconds
are those of this process; the database has its own.

The peer is the bus alone: the same events read by a group whose handler does nothing, which is what no
consumer can beat.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import pstats
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import uvloop
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.gps.v1.gps_pb2 import TRAFFIC_DENSITY_MODERATE, ZONE_TYPE_MIXED, GpsEvent, TripStage
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.order_pb2 import ORDER_STATUS_ASSIGNED, Order

from bench._command import command
from services.mesh.events import EventBus, Message, create_bus
from services.mesh.settings import load
from services.mesh.store import EmbeddedPostgres, Store
from services.route.consumer import FixConsumer
from services.route.intake import take_orders
from services.route.server import MIGRATIONS
from services.route.settings import RouteSettings

TOPIC: Final = "gps-events"
START_S: Final = 1_700_000_000
PAIRS: Final = 5


class NoReroutes:
    """Nobody has two orders here, so nothing is to be planned again."""

    def wish(self, *args: object, **kwargs: object) -> None:
        """Not expected."""


def fixes(couriers: int, total: int) -> list[Message]:
    """A fix every 3 s from each courier in turn."""
    each = total // couriers
    made = []
    for step in range(each):
        if step < each // 4:
            stage = TripStage.TRIP_STAGE_TO_PICKUP
        elif step < each - 2:
            stage = TripStage.TRIP_STAGE_TO_DESTINATION
        else:
            stage = TripStage.TRIP_STAGE_DELIVERED
        for number in range(couriers):
            event = GpsEvent(
                driver_id=f"courier-{number}",
                order_id=f"order-{number}",
                location=Location(lat=60.1 + number * 1e-3, lon=24.9 + step * 1e-5),
                speed_kph=20.0,
                trip_stage=stage,
                traffic_density=TRAFFIC_DENSITY_MODERATE,
                zone_type=ZONE_TYPE_MIXED,
                timestamp=Timestamp(seconds=START_S + 3 * step),
            )
            made.append(
                Message(
                    TOPIC,
                    event.driver_id,
                    event.SerializeToString(),
                    f"{number}-{step}",
                    "waymesh.gps.v1.GpsEvent",
                )
            )
    return made


def orders(couriers: int) -> list[Order]:
    """One for each courier."""
    return [
        Order(
            order_id=f"order-{number}",
            revision=1,
            status=ORDER_STATUS_ASSIGNED,
            driver_id=f"courier-{number}",
            pickup=Location(lat=60.1, lon=24.9),
            dropoff=Location(lat=60.2, lon=25.0),
            placed_at=Timestamp(seconds=START_S),
        )
        for number in range(couriers)
    ]


async def timed(
    bus: EventBus, group: str, handle: Callable[[Any, list[Any]], Awaitable[None]]
) -> tuple[float, float]:
    """Wall and CPU seconds until a new group has read everything."""
    began, cpu = time.perf_counter(), time.process_time()
    consumer = bus.consume(group, [TOPIC], handle)
    reading = asyncio.create_task(consumer.run())
    await consumer.caught_up.wait()
    taken = time.perf_counter() - began, time.process_time() - cpu
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    return taken


async def nothing(conn: Any, records: list[Any]) -> None:
    """What the bus costs by itself."""


async def measure(total: int, couriers: int, profile: bool) -> dict[str, object]:
    """Fills the topic and reads it in pairs."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    server = EmbeddedPostgres(folder)
    try:
        store = await Store.open(await server.start(), schema="route", migrations=MIGRATIONS)
        bus = create_bus(load(RouteSettings, data_dir=folder), service="bench", pool=store.pool)
        await bus.start()
        messages = fixes(couriers, total)
        for at in range(0, len(messages), 5000):
            async with store.transaction() as conn:
                await bus.publish(conn, messages[at : at + 5000])
        rates, cpus, bare = [], [], []
        for pair in range(PAIRS):
            async with store.transaction() as conn:
                await conn.execute("TRUNCATE orders, revisions, positions")
                await take_orders(conn, orders(couriers))
            consumer = FixConsumer(bus, NoReroutes(), lambda: None)  # type: ignore[arg-type] # has what is called of it, no more
            profiler = cProfile.Profile() if profile and pair == 1 else None
            if profiler is not None:
                profiler.enable()
            wall, cpu = await timed(bus, f"route-{pair}", consumer.handle)
            if profiler is not None:
                profiler.disable()
                pstats.Stats(profiler).sort_stats("tottime").print_stats(18)
            alone, _ = await timed(bus, f"bare-{pair}", nothing)
            rates.append(len(messages) / wall)
            cpus.append(cpu / len(messages) * 1e6)
            bare.append(len(messages) / alone)
            print(f"{rates[-1]:9,.0f} fixes/s, {cpus[-1]:.1f} µs CPU each; the bus alone {bare[-1]:9,.0f}/s")
        moved = await store.pool.fetchval("SELECT count(*) FROM orders WHERE status = 4")
        assert moved == couriers, moved
        await bus.close()
        await store.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "fixes": len(messages),
        "fixes_per_s": round(statistics.median(rates)),
        "cpu_us_per_fix": round(statistics.median(cpus), 2),
        "bus_alone_per_s": round(statistics.median(bare)),
        "ratio": round(statistics.median(r / b for r, b in zip(rates, bare, strict=True)), 3),
    }


def main() -> None:
    """Measures and prints."""
    parser = command("route_fixes", __doc__)
    parser.add_argument("--fixes", type=int, default=200_000, help="how many wait")
    parser.add_argument("--couriers", type=int, default=200, help="who sent them")
    parser.add_argument("--profile", action="store_true", help="say in which functions the time goes")
    given = parser.parse_args()
    print(json.dumps(uvloop.run(measure(given.fixes, given.couriers, given.profile))))


if __name__ == "__main__":
    main()
