"""Publishing through our bus on Kafka beside raw aiokafka: same brokers, settings and events, in turns.

Ours begins in PostgreSQL: committed in transactions of 500 events by two writers, relayed to the brokers and
deleted from the log, all in one process as in a service. Raw is one producer to which every event is handed
by `send`, as the library's documentation has it. Both end when brokers have acknowledged the last event.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import uvloop
from aiokafka import AIOKafkaProducer
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from bench._mesh import say
from services.mesh import json_codec
from services.mesh.events import Message
from services.mesh.events.cloud_events import to_headers
from services.mesh.events.kafka import KafkaBus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.topics import AGENT_OUTCOMES
from services.mesh.store import connect

_EXAMPLE: Final = Path(__file__).parents[1] / "tests" / "wire" / "outcome_success.json"
_COMMIT: Final = 500
_WRITERS: Final = 2
# Events that raw aiokafka may have under way before it waits for the first of them.
_WINDOW: Final = 5_000


def outcomes(number: int) -> list[Message]:
    """Outcomes as feedback publishes them, each with ids of its own."""
    event = json_codec.decode(OutcomeEvent, _EXAMPLE.read_bytes())
    made = []
    for _ in range(number):
        event.event_id, event.run_id = str(uuid.uuid4()), str(uuid.uuid4())
        value = event.SerializeToString()
        made.append(Message(AGENT_OUTCOMES, event.run_id, value, event.event_id, event.DESCRIPTOR.full_name))
    return made


async def ours(servers: str, dsn: str, events: Sequence[Message]) -> tuple[float, float]:
    """Seconds from the first commit until the log is empty, and CPU seconds of this process."""
    pool = await asyncpg.create_pool(dsn, min_size=4, max_size=8, connect=connect)
    bus = KafkaBus(pool, KafkaOptions(servers), service="feedback")
    await bus.start()
    began, cpu = time.perf_counter(), time.process_time()

    async def write(place: int) -> None:
        for first in range(place * _COMMIT, len(events), _WRITERS * _COMMIT):
            async with pool.acquire() as connection, connection.transaction():
                await bus.publish(connection, events[first : first + _COMMIT])

    await asyncio.gather(*(write(place) for place in range(_WRITERS)))
    while await pool.fetchval("SELECT EXISTS (SELECT FROM bus.log)"):  # noqa: ASYNC110 - the brokers' word
        await asyncio.sleep(0.005)
    spent = time.perf_counter() - began, time.process_time() - cpu
    await bus.close()
    await pool.close()
    return spent


async def raw(servers: str, events: Sequence[Message]) -> tuple[float, float]:
    """Seconds from the first `send` until all are acknowledged, and CPU seconds of this process."""
    producer = AIOKafkaProducer(**KafkaOptions(servers).producer())
    await producer.start()
    began, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(events), _WINDOW):
        under_way = [
            await producer.send(
                event.topic,
                value=event.value,
                key=event.key.encode(),
                headers=[(name, value.encode()) for name, value in to_headers(event, "feedback").items()],
            )
            for event in events[first : first + _WINDOW]
        ]
        await asyncio.gather(*under_way)
    spent = time.perf_counter() - began, time.process_time() - cpu
    await producer.stop()
    return spent


async def _spawn(*arguments: object) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench._events_publish", *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with {process.returncode}")
    return dict(json.loads(out.splitlines()[-1]))


async def publishing(servers: str, dsn: str, *, events: int, rounds: int) -> dict[str, Any]:
    """Rounds of both, interleaved; medians, and the median of the rounds' ratios."""
    rates: dict[str, list[float]] = {"ours": [], "raw": []}
    cpu_us: dict[str, list[float]] = {"ours": [], "raw": []}
    for number in range(rounds):
        for who in ("ours", "raw") if number % 2 else ("raw", "ours"):
            spent = await _spawn(who, servers, dsn, events)
            rates[who].append(events / spent["seconds"])
            cpu_us[who].append(spent["cpu_s"] / events * 1e6)
            say(f"{who}: {rates[who][-1]:,.0f} events/s, {cpu_us[who][-1]:.1f} µs of CPU each")
    return {
        "events": events,
        "rounds": rounds,
        "ours_per_s": round(statistics.median(rates["ours"])),
        "raw_per_s": round(statistics.median(rates["raw"])),
        "ratio": round(statistics.median(a / b for a, b in zip(rates["ours"], rates["raw"], strict=True)), 2),
        "cpu_us": {who: round(statistics.median(spent), 1) for who, spent in cpu_us.items()},
    }


def main() -> None:
    """A process of its own for each run: `ours|raw SERVERS DSN EVENTS`."""
    who, servers, dsn, number = sys.argv[1:]
    events = outcomes(int(number))
    seconds, cpu_s = uvloop.run(ours(servers, dsn, events) if who == "ours" else raw(servers, events))
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
