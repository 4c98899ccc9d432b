"""The embedded event bus: events a second in and out to two groups, and latency at a steady rate.

One process publishes GPS-sized events in batches of 1,000, two processes read, each as a group of its own;
PostgreSQL is the embedded one, fsync on. First everything as fast as it goes, then 20,000 events a second
(batches of 200 every 10 ms) with the time from before the publish to the call of the handler.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import asyncpg
import uvloop

from bench._command import command
from services.mesh.events import Message, Record
from services.mesh.events.postgres import PostgresBus
from services.mesh.store import EmbeddedPostgres, connect

TOPIC: Final = "gps-events"
_PADDING: Final = b"\x00" * 112
_COURIERS: Final = 1000


async def opened(dsn: str) -> tuple[PostgresBus, asyncpg.Pool]:
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=8, connect=connect)
    bus = PostgresBus(pool, service="bench")
    await bus.start()
    return bus, pool


def batch(first: int, count: int) -> list[Message]:
    """Events that carry when they were made, in ns of the machine's monotonic clock, 120 bytes in all."""
    made = time.monotonic_ns().to_bytes(8, "little") + _PADDING
    return [
        Message(TOPIC, f"driver_{n % _COURIERS}", made, f"{n:036d}", "waymesh.gps.v1.GpsEvent")
        for n in range(first, first + count)
    ]


async def publish(dsn: str, events: int, size: int, rate: int) -> None:
    bus, pool = await opened(dsn)
    began = time.monotonic()
    print(json.dumps({"began": began}), flush=True)

    async def worker(place: int, workers: int) -> None:
        for first in range(place * size, events, workers * size):
            if rate:
                await asyncio.sleep(began + first / rate - time.monotonic())
            messages = batch(first, min(size, events - first))
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(connection, messages)

    workers = 1 if rate else 2
    await asyncio.gather(*(worker(place, workers) for place in range(workers)))
    print(json.dumps({"ended": time.monotonic(), "cpu_s": time.process_time()}), flush=True)
    await bus.close()
    await pool.close()


async def consume(dsn: str, group: str, events: int, timed: bool) -> None:
    bus, pool = await opened(dsn)
    seen = 0
    latencies_ms: list[float] = []
    done = asyncio.Event()
    ended = 0.0

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        nonlocal seen, ended
        if timed:
            now = time.monotonic_ns()
            latencies_ms.extend([(now - int.from_bytes(r.value[:8], "little")) / 1e6 for r in records])
        seen += len(records)
        if seen >= events:
            ended = time.monotonic()
            done.set()

    reading = asyncio.create_task(bus.consume(group, [TOPIC], handle).run())
    await bus_ready(pool, group)
    print(json.dumps({"ready": True}), flush=True)
    await done.wait()
    cpu_s = time.process_time()
    latencies_ms.sort()
    print(
        json.dumps(
            {
                "ended": ended,
                "seen": seen,
                "cpu_s": cpu_s,
                "p50_ms": latencies_ms[len(latencies_ms) // 2] if timed else 0.0,
                "p99_ms": latencies_ms[len(latencies_ms) * 99 // 100] if timed else 0.0,
            }
        ),
        flush=True,
    )
    await asyncio.sleep(0.2)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await bus.close()
    await pool.close()


async def bus_ready(pool: asyncpg.Pool, group: str) -> None:
    """Until the group's only member has all partitions."""
    sql = "SELECT count(*) > 0 AND bool_and(owner IS NOT NULL) FROM bus.offsets WHERE group_name = $1"
    while True:
        if await pool.fetchval(sql, group):
            return
        await asyncio.sleep(0.01)


async def spawn(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.bus", *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )


async def said(process: asyncio.subprocess.Process) -> dict[str, float]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the bench ended early")
    return dict(json.loads(line))


async def measure(dsn: str, name: str, events: int, size: int, rate: int) -> dict[str, float]:
    """One run on a fresh database."""
    admin = await connect(dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    own = dsn.replace("/waymesh?", f"/{name}?")
    readers = [await spawn("consume", own, f"group{n}", events, int(rate > 0)) for n in range(2)]
    for reader in readers:
        await said(reader)
    publisher = await spawn("publish", own, events, size, rate)
    began = (await said(publisher))["began"]
    published = await said(publisher)
    results = [await said(reader) for reader in readers]
    for process in (publisher, *readers):
        await process.wait()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()
    ended = max(result["ended"] for result in results)
    return {
        "events_per_s": events / (ended - began),
        "publish_per_s": events / (published["ended"] - began),
        "p50_ms": statistics.mean(result["p50_ms"] for result in results),
        "p99_ms": max(result["p99_ms"] for result in results),
        "publisher_cpu_us": published["cpu_s"] / events * 1e6,
        "reader_cpu_us": statistics.mean(result["cpu_s"] for result in results) / events * 1e6,
    }


async def run(events: int, rate: int, seconds: int, rounds: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    server = EmbeddedPostgres(folder)
    try:
        dsn = await server.start()
        fast = [await measure(dsn, f"fast{n}", events, 1000, 0) for n in range(rounds)]
        for one in fast:
            print(
                f"at full speed: {one['events_per_s']:,.0f} events/s in and out to two groups "
                f"(publish {one['publish_per_s']:,.0f}/s; CPU µs per event: publisher "
                f"{one['publisher_cpu_us']:.1f}, each reader {one['reader_cpu_us']:.1f})"
            )
        steady = [await measure(dsn, f"steady{n}", rate * seconds, rate // 100, rate) for n in range(rounds)]
        for one in steady:
            print(f"at {rate:,} events/s: p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms")
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(
        json.dumps(
            {
                "events_per_s": round(statistics.median(one["events_per_s"] for one in fast)),
                "p50_ms": round(statistics.median(one["p50_ms"] for one in steady), 2),
                "p99_ms": round(statistics.median(one["p99_ms"] for one in steady), 2),
                "rate": rate,
                "rounds": rounds,
                "cores": os.cpu_count(),
            }
        )
    )


def main() -> None:
    parser = command("bus", __doc__)
    parser.add_argument("--events", type=int, default=500_000, help="events of a run at full speed")
    parser.add_argument("--rate", type=int, default=20_000, help="events a second of a steady run")
    parser.add_argument("--seconds", type=int, default=10, help="length of a steady run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind, whose medians count")
    arguments = parser.parse_args()
    uvloop.run(run(arguments.events, arguments.rate, arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["publish", dsn, events, size, rate]:
            uvloop.run(publish(dsn, int(events), int(size), int(rate)))
        case ["consume", dsn, group, events, timed]:
            uvloop.run(consume(dsn, group, int(events), timed == "1"))
        case _:
            main()
