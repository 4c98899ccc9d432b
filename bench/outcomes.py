"""Outcomes that feedback accepts as durable: how many a second, and how long one waits for the answer.

Through RecordOutcomes of a whole running mesh, one outcome a call with 64 calls at a time, then 500 a call
with 4 at a time. Beside each the floor, interleaved: the same rows by bare asyncpg INSERTs, as many at a time
over 8 connections, into a table with the same columns and indexes in the same PostgreSQL, fsync on.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import grpc
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from bench._command import command
from bench._mesh import mesh, report, say
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.sim.latency import Latencies

_TABLE: Final = """
CREATE TABLE bench_outcomes (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL UNIQUE, at timestamptz NOT NULL,
    agent_name text NOT NULL, status smallint NOT NULL, workflow_id text NOT NULL, body bytea NOT NULL);
CREATE INDEX ON bench_outcomes (at DESC, number DESC);
CREATE INDEX ON bench_outcomes (agent_name, at DESC, number DESC);
CREATE INDEX ON bench_outcomes (workflow_id, at DESC, number DESC) WHERE workflow_id <> '';
"""
_INSERT: Final = """
INSERT INTO bench_outcomes (id, at, agent_name, status, workflow_id, body)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::text[], $4::smallint[], $5::text[], $6::bytea[])
ON CONFLICT DO NOTHING
"""

Write = Callable[[Sequence[OutcomeEvent]], Awaitable[None]]


@dataclass(slots=True)
class Side:
    """One way of writing, over all rounds."""

    write: Write
    rates: list[float] = field(default_factory=list)
    latencies: Latencies = field(default_factory=Latencies)

    def figures(self) -> dict[str, float]:
        p50, p99 = (self.latencies.quantile_ms(level) or 0.0 for level in (0.5, 0.99))
        return {
            "outcomes_per_s": round(statistics.median(self.rates)),
            "ack_p50_ms": round(p50, 2),
            "ack_p99_ms": round(p99, 2),
        }


def made(count: int) -> list[OutcomeEvent]:
    """Outcomes such as a service records around a task."""
    return [
        outcome(
            agent_name=f"agent-{n % 20}",
            agent_type="bench",
            action_type="predict_eta",
            started=datetime.now(UTC),
            duration_ms=float(n % 250),
            status=SUCCESS,
            input_data={"order_id": f"order_{n}", "driver_id": f"driver_{n % 500}", "fresh": True},
            output={"delivery_eta_minutes": 12.5, "confidence": 0.7},
            tags=("bench", "eta"),
        )
        for n in range(count)
    ]


async def drive(side: Side, events: Sequence[OutcomeEvent], size: int, at_a_time: int) -> None:
    """Writes all of them, `size` a call, `at_a_time` calls at a time."""
    starts = iter(range(0, len(events), size))

    async def worker() -> None:
        for start in starts:
            began = time.perf_counter()
            await side.write(events[start : start + size])
            side.latencies.add(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_a_time):
            tasks.create_task(worker())
    side.rates.append(len(events) / (time.perf_counter() - began))


def through(stub: Any) -> Write:
    """By the service. The stub is that of grpc.aio."""

    async def write(events: Sequence[OutcomeEvent]) -> None:
        answer = await stub.RecordOutcomes(RecordOutcomesRequest(events=events), timeout=60)
        assert answer.stored == len(events)

    return write


def bare(pool: asyncpg.Pool) -> Write:
    """By INSERT."""

    async def write(events: Sequence[OutcomeEvent]) -> None:
        await pool.execute(
            _INSERT,
            [event.event_id for event in events],
            [event.timestamp.ToDatetime(UTC) for event in events],
            [event.agent_name for event in events],
            [event.status for event in events],
            [event.workflow_id for event in events],
            [event.SerializeToString() for event in events],
        )

    return write


async def measure(rounds: int, single: int, batched: int) -> dict[str, Any]:
    ways = {"unary": (single, 1, 64), "batch": (batched, 500, 4)}
    async with mesh() as running, asyncpg.create_pool(running.state.dsn, min_size=8, max_size=8) as pool:
        await pool.execute(_TABLE)
        async with grpc.aio.insecure_channel(running.state.target("feedback")) as channel:
            stub = FeedbackServiceStub(channel)
            sides = {way: (Side(through(stub)), Side(bare(pool))) for way in ways}
            for one in range(rounds + 1):
                for way, (count, size, at_a_time) in ways.items():
                    pair = sides[way] if one % 2 else sides[way][::-1]
                    for side in pair:
                        await drive(side, made(count if one else count // 10), size, at_a_time)
                if one:
                    shown = (
                        f"{way} {a.rates[-1]:,.0f} / {b.rates[-1]:,.0f}" for way, (a, b) in sides.items()
                    )
                    say(f"round {one}, outcomes/s through the mesh / bare: {', '.join(shown)}")
                else:  # warm
                    for side in (side for pair in sides.values() for side in pair):
                        side.rates.clear()
                        side.latencies = Latencies()
    result: dict[str, Any] = {"rounds": rounds}
    for way, (ours, floor) in sides.items():
        ratios = [a / b for a, b in zip(ours.rates, floor.rates, strict=True)]
        result[way] = {
            "size": ways[way][1],
            "at_a_time": ways[way][2],
            "mesh": ours.figures(),
            "asyncpg": floor.figures(),
            "ratio": round(statistics.median(ratios), 3),
        }
    return result


def main() -> int:
    parser = command("outcomes", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--single", type=int, default=4000, help="outcomes of a round, one a call")
    parser.add_argument("--batched", type=int, default=20_000, help="outcomes of a round in batches")
    arguments = parser.parse_args()
    return report(lambda: measure(max(1, arguments.rounds), arguments.single, arguments.batched))


if __name__ == "__main__":
    sys.exit(main())
