"""All brokers away, and a leader killed: what callers notice, what is lost, how fast it catches up.

Batches of outcomes come at a steady rate, whatever the answers take, through RecordOutcomes of one process of
feedback. The callers are a process of their own. They see, one after the other:

  before         all brokers there; the base
  away           all of them killed with -9 at its beginning, and not there until its end
  back           they start again, and the backlog drains while calls go on
  after          all of it is drained; the base once more
  leader_killed  the leader of a partition is killed with -9, and started again halfway

What callers notice of an outage is the difference between the p99 of `away` and that of the base, both halves
of it together; how far the two halves are apart says how much of a difference is the machine's own. Brokers
share two cores here with what they serve, which elsewhere they do not, and would be seen to be gone by how
much faster all else becomes. Hence they run at a low priority, behind whatever else wants to run, and the
rate leaves most of the time to nobody. The drain counts what waited and what came in meanwhile.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from bench._events_callers import Apart, Phase
from bench._mesh import say
from bench.eta_pipeline import running
from services.mesh.events.kafka_relay import GROUP
from services.mesh.events.topics import AGENT_OUTCOMES
from tools.kafka.cluster import KafkaCluster
from tools.ports import free_ports

# Programs just started are slow, Java's above all; and what was just drained still leaves things to tidy up.
_WARM_S: Final = 15.0
_SETTLE_S: Final = 10.0
_LOOK_S: Final = 0.02
_DRAIN_S: Final = 600.0
_MORE_MS: Final = 5.0
# By the places of readers: to count rows would keep PostgreSQL busy while it is measured.
_PENDING: Final = f"""
SELECT coalesce(sum(h.last - o.position), 0)::bigint
FROM bus.heads h JOIN bus.offsets o USING (part) WHERE o.group_name = '{GROUP}'
"""


def quantile_ms(phases: list[Phase], q: float) -> float:
    """Of all calls of these phases: the time that a share `q` does not exceed."""
    ordered = sorted(seconds for phase in phases for seconds in phase.seconds)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000, 2) if ordered else 0.0


class Idle:
    """The share of the machine's time that nobody used, by phase: where it is low, figures say less."""

    def __init__(self) -> None:
        self._phase = ""
        self._before = psutil.cpu_times()
        self.shares: dict[str, float] = {}

    def begin(self, phase: str) -> None:
        now = psutil.cpu_times()
        spent = [after - before for after, before in zip(now, self._before, strict=True)]
        idle = now.idle - self._before.idle
        self.shares[self._phase] = round(idle / sum(spent), 2) if sum(spent) else 0.0
        self._phase, self._before = phase, now


def figures(phase: Phase, idle: float) -> dict[str, Any]:
    return {
        "machine_idle": idle,
        "calls": len(phase.seconds),
        "errors": dict(phase.errors),
        "ack_p50_ms": quantile_ms([phase], 0.5),
        "ack_p99_ms": quantile_ms([phase], 0.99),
        "ack_max_ms": quantile_ms([phase], 1.0),
    }


async def drained(pool: asyncpg.Pool, per_s: int) -> tuple[float, float]:
    """Until what waits is no more than comes in within a fifth of a second.

    Seconds until the first of it went, and events a second from then on.
    """
    began = time.perf_counter()
    most, most_at = 0, began
    async with asyncio.timeout(_DRAIN_S):
        while True:
            left, now = await pool.fetchval(_PENDING), time.perf_counter()
            if left >= most:
                most, most_at = left, now
            if left <= per_s / 5:
                took = max(now - most_at, _LOOK_S)
                return round(most_at - began, 1), (most - left) / took + per_s
            await asyncio.sleep(_LOOK_S)


async def outage(
    cluster: KafkaCluster, dsn: str, folder: Path, *, per_s: int, calm_s: float, away_s: float
) -> dict[str, Any]:
    """Figures of each phase, the drain, and the audit of the topic. The topics are there and empty."""
    [port] = free_ports(1)
    environment = {
        "DATABASE_URL": dsn,
        "KAFKA_BOOTSTRAP_SERVERS": cluster.bootstrap_servers,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_FEEDBACK_PORT": str(port),
        "WAYMESH_FEEDBACK_ADMIN_PORT": "0",
        "ENABLE_OUTCOME_LOGGING": "false",
    }
    with running([sys.executable, "-m", "services.feedback"], environment):
        callers, idle = Apart(f"127.0.0.1:{port}", per_s, folder), Idle()

        def begin(phase: str) -> None:
            callers.begin(phase)
            idle.begin(phase)

        try:
            async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
                begin("warm")
                await asyncio.sleep(_WARM_S)
                begin("before")
                await asyncio.sleep(calm_s)
                begin("away")
                await asyncio.gather(cluster.kill(), asyncio.sleep(away_s))
                begin("back")
                backlog = await pool.fetchval(_PENDING)
                say(f"{backlog} events wait; the brokers come back")
                _, (first_s, drained_per_s) = await asyncio.gather(cluster.start(), drained(pool, per_s))
                say(f"they went at {drained_per_s:,.0f} a second")
                begin("settling")
                await cluster.in_sync()
                await asyncio.sleep(_SETTLE_S)
                begin("after")
                await asyncio.sleep(calm_s)
                begin("leader_killed")
                leader = await cluster.leader_of(AGENT_OUTCOMES, 0)
                await cluster.kill(leader)
                await asyncio.sleep(calm_s / 2)
                await cluster.start(leader)
                await asyncio.sleep(calm_s / 2)
                idle.begin("")
                phases, ids = await callers.end()
                await drained(pool, 0)
        finally:
            callers.kill()
    there = Counter(record.headers["ce_id"].decode() for record in await cluster.look.records(AGENT_OUTCOMES))
    base = [phases["before"], phases["after"]]
    base_ms, away_ms = quantile_ms(base, 0.99), quantile_ms([phases["away"]], 0.99)
    apart = abs(quantile_ms(base[:1], 0.99) - quantile_ms(base[1:], 0.99))
    return {
        "offered_per_s": per_s,
        "away_s": away_s,
        **{
            name: figures(phases[name], idle.shares[name])
            for name in ("before", "away", "back", "after", "leader_killed")
        },
        "base_p99_ms": base_ms,
        "base_p99_apart_ms": round(apart, 2),
        "away_p99_ms": away_ms,
        "more_at_p99_ms": round(away_ms - base_ms, 2),
        "within_5_ms": away_ms - base_ms <= _MORE_MS,
        "errors": sum(sum(phase.errors.values()) for phase in phases.values()),
        "backlog": backlog,
        "first_after_s": first_s,
        "drained_per_s": round(drained_per_s),
        "acknowledged": len(ids),
        "lost": len(ids - there.keys()),
        "raw_duplicates": sum(times - 1 for times in there.values()),
    }
