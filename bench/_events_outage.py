"""All brokers away, and a leader killed: what callers notice, what is lost, how fast it catches up.

Batches of outcomes come at a steady rate, whatever the answers take, through RecordOutcomes of one process of
feedback. First with all brokers there; then the leader of a partition is killed with -9 and started again;
then all of them are stopped; and at last they are back, until the backlog is gone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import grpc
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from bench._events_outcomes import Maker
from bench._mesh import say
from bench.eta_pipeline import free_port, running
from services.mesh.events.topics import AGENT_OUTCOMES
from services.sim.latency import Latencies
from tools.kafka.cluster import KafkaCluster

_BATCH: Final = 20
_READY_S: Final = 60.0
_PENDING: Final = "SELECT count(*) FROM bus.log"


@dataclass(slots=True)
class Phase:
    """What callers saw while something was so."""

    latencies: Latencies = field(default_factory=Latencies)
    acknowledged: int = 0
    errors: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        return {
            "acknowledged": self.acknowledged,
            "errors": dict(self.errors),
            "ack_p50_ms": self.latencies.quantile_ms(0.5),
            "ack_p99_ms": self.latencies.quantile_ms(0.99),
        }


class Load:
    """Outcomes at a steady rate, each batch sent when it is due."""

    def __init__(self, stub: Any, per_s: int) -> None:
        self._stub = stub
        self._maker = Maker()
        self._every_s = _BATCH / per_s
        self.phase = Phase()
        self.ids: set[str] = set()
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        due = time.perf_counter()
        while True:
            due += self._every_s
            await asyncio.sleep(due - time.perf_counter())
            call = asyncio.create_task(self._call(self.phase, due))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def settle(self) -> None:
        """Until all answers are here."""
        await asyncio.gather(*self._calls)

    async def _call(self, phase: Phase, due: float) -> None:
        events = self._maker.batch(_BATCH)
        try:
            await self._stub.RecordOutcomes(RecordOutcomesRequest(events=events), timeout=10)
        except grpc.aio.AioRpcError as error:
            phase.errors[error.code().name] += 1
            return
        phase.latencies.add(time.perf_counter() - due)
        phase.acknowledged += len(events)
        self.ids.update(event.event_id for event in events)


async def outage(
    cluster: KafkaCluster, dsn: str, folder: Path, *, per_s: int, calm_s: float, away_s: float
) -> dict[str, Any]:
    """Figures of each phase, the drain, and the audit of the topic. The topics are there and empty."""
    port = free_port()
    environment = {
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_FEEDBACK_PORT": str(port),
        "WAYMESH_FEEDBACK_ADMIN_PORT": "0",
        "ENABLE_OUTCOME_LOGGING": "false",
    }
    with running([sys.executable, "-m", "services.feedback"], environment):
        async with (
            asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            await asyncio.wait_for(channel.channel_ready(), _READY_S)
            load = Load(FeedbackServiceStub(channel), per_s)
            sending = asyncio.create_task(load.run())
            await asyncio.sleep(3)  # warm
            calm = load.phase = Phase()
            await asyncio.sleep(calm_s)
            killed = load.phase = Phase()
            leader = await cluster.leader_of(AGENT_OUTCOMES, 0)
            await cluster.kill(leader)
            await asyncio.sleep(calm_s / 2)
            await cluster.start(leader)
            say(f"node {leader} was killed and is back")
            load.phase = Phase()
            await cluster.stop()
            away = load.phase = Phase()
            await asyncio.sleep(away_s)
            sending.cancel()
            await load.settle()
            backlog = await pool.fetchval(_PENDING)
            say(f"{backlog} events wait; the brokers come back")
            await cluster.start()
            began, first = time.perf_counter(), 0.0
            while left := await pool.fetchval(_PENDING):
                if left < backlog and not first:
                    first = time.perf_counter()
                await asyncio.sleep(0.02)
            ended = time.perf_counter()
    there = Counter(record.headers["ce_id"].decode() for record in await cluster.look.records(AGENT_OUTCOMES))
    p99s = [phase.latencies.quantile_ms(0.99) or 0.0 for phase in (calm, away)]
    return {
        "offered_per_s": per_s,
        "calm": calm.figures(),
        "leader_killed": killed.figures(),
        "all_away": {"seconds": away_s, **away.figures()},
        "p99_more_ms": round(p99s[1] - p99s[0], 2),
        "backlog": backlog,
        "first_after_s": round(first - began, 1),
        "drained_per_s": round(backlog / (ended - first)),
        "acknowledged": len(load.ids),
        "lost": len(load.ids - there.keys()),
        "raw_duplicates": sum(times - 1 for times in there.values()),
    }
