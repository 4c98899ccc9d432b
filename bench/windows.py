"""What windows cost an outcome, at 10,000 outcomes a second of 20 agents, in workflows of 5.

Outcomes lie in a real PostgreSQL as feedback stores them. Each 250 ms of them go the leader's way: read as
columns, added, flushed, written. `engine` is the CPU time of adding and flushing, `reading` that of the
rest in our process, `postgres` that of its backend, in microseconds an outcome. The peer makes the windows
of the same outcomes by one SQL statement with percentile_cont, once, when all of a round are there; ours
keeps them up to date all the while. `refresh` is what it takes to put every window together anew at the
end, ours and by SQL, in milliseconds.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import asyncpg
import psutil

from bench._command import command
from bench._mesh import report, say
from services.feedback import metrics_store
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.server import MIGRATIONS
from services.feedback.windows import Windows
from services.mesh.store import EmbeddedPostgres, Store

RATE: Final = 10_000
TICK_S: Final = 0.25
SPECS: Final = parse_windows("60s,300s/60s")

_FILL: Final = """
INSERT INTO outcomes (number, stored_at, at, id, agent_name, status, severity, workflow_id, latency_ms,
  error_type, tokens_used, cost_estimate, started, ended, body)
SELECT n, $1::timestamptz + n * $2::interval, $1::timestamptz + n * $2::interval - late, 'event-' || n,
  'agent-' || n % 20, 1 + (n % 20 = 0)::int, 1 + 2 * (n % 20 = 0)::int, 'workflow-' || n / 5,
  -50 * ln(1 - random()), CASE WHEN n % 20 = 0 THEN 'ValueError' ELSE '' END, n % 1000, random() / 100,
  $1::timestamptz + n * $2::interval - late - interval '50 ms', $1::timestamptz + n * $2::interval - late, ''
FROM (SELECT n, random() * CASE WHEN n % 100 = 0 THEN interval '60 s' ELSE interval '0.2 s' END AS late
  FROM generate_series($3::bigint, $4::bigint) AS n) AS made
"""
_WINDOWS: Final = """
SELECT size, start, agent_name, count(*), count(*) FILTER (WHERE status = 1),
  count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE severity >= 3), avg(latency_ms),
  percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms),
  sum(tokens_used), sum(cost_estimate)
FROM (
  SELECT o.*, size, date_bin('60 s', at, 'epoch') - k * interval '60 s' AS start
  FROM outcomes o, (VALUES (60, 0), (300, 0), (300, 1), (300, 2), (300, 3), (300, 4)) AS w (size, k)
  WHERE number > $1 AND number <= $2
) AS placed
GROUP BY GROUPING SETS ((size, start, agent_name), (size, start))
"""


@asynccontextmanager
async def postgres() -> AsyncIterator[Store]:
    """A server of its own with feedback's tables."""
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bench-", dir="/tmp"))
    server = EmbeddedPostgres(folder)
    try:
        store = await Store.open(
            await server.start(), schema="feedback", migrations=MIGRATIONS, command_timeout_s=600
        )
        try:
            yield store
        finally:
            await store.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Ours:
    """The leader's way, without the events."""

    def __init__(self, connection: asyncpg.Connection, backend: psutil.Process) -> None:
        self.windows = Windows(SPECS, 600 * SECOND)
        self._connection = connection
        self._backend = backend

    async def take(self, start: int, end: int) -> dict[str, float]:
        """Outcomes numbered above `start` up to `end`; microseconds of CPU an outcome."""
        engine, all_of_it, theirs = 0.0, time.process_time(), _cpu_s(self._backend)
        step = int(RATE * TICK_S)
        for number in range(start, end, step):
            async with self._connection.transaction():
                found = await metrics_store.columns(self._connection, number, min(end, number + step), step)
                assert found is not None
                ids = self.windows.strangers(found)
                known = await metrics_store.workflows(self._connection, ids, 0, number)
                began = time.process_time()
                now = int(found.stored_at[-1])
                self.windows.add(found, known, now)
                made = self.windows.flush(now)
                engine += time.process_time() - began
                await metrics_store.write(self._connection, made)
        all_of_it = time.process_time() - all_of_it
        return {
            "engine": engine / (end - start) * 1e6,
            "reading": (all_of_it - engine) / (end - start) * 1e6,
            "postgres": (_cpu_s(self._backend) - theirs) / (end - start) * 1e6,
        }


async def measure(rounds: int, seconds: int) -> dict[str, Any]:
    count = RATE * seconds
    taken: list[dict[str, float]] = []
    by_sql: list[float] = []
    async with postgres() as store, store.pool.acquire() as connection:
        backend = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()"))
        begin = datetime.now(UTC).replace(second=0, microsecond=0)
        for day in (0, 1):
            await connection.execute("SELECT make_outcomes_of($1)", (begin + timedelta(days=day)).date())
        ours = Ours(connection, backend)
        for one in range(rounds + 1):
            start, end = one * count, (one + 1) * count
            await connection.execute(_FILL, begin, timedelta(seconds=1 / RATE), start + 1, end)
            await connection.execute("ANALYZE outcomes")
            figures = await ours.take(start, end)
            began = _cpu_s(backend)
            await connection.fetch(_WINDOWS, start, end)
            sql = (_cpu_s(backend) - began) / count * 1e6
            shown = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            say(f"round {one}, µs of CPU an outcome: {shown}; by SQL {sql:.2f}")
            if one:  # warm
                taken.append(figures)
                by_sql.append(sql)
        began = _cpu_s(backend)
        await connection.fetch(_WINDOWS, 0, (rounds + 1) * count)
        sql_refresh = _cpu_s(backend) - began
        anew = Windows(SPECS, 600 * SECOND)
        found = await metrics_store.columns(connection, 0, (rounds + 1) * count, (rounds + 1) * count)
        assert found is not None
        anew.add(found, {}, 0)
        anew.flush(0, cost=10**12)  # what follows finds values in runs, as any flush but the first
        some = found.part(len(found) - int(RATE * TICK_S), len(found))
        anew.add(some, {}, 0)
        began = time.process_time()
        made = anew.flush(0, cost=10**12)
        refresh = time.process_time() - began
    totals = [sum(figures.values()) for figures in taken]
    return {
        "rounds": rounds,
        "outcomes": rounds * count,
        "cpu_us": {name: round(statistics.median(one[name] for one in taken), 2) for name in taken[0]},
        "sql_once_us": round(statistics.median(by_sql), 2),
        "ratio": round(statistics.median(a / b for a, b in zip(totals, by_sql, strict=True)), 3),
        "refresh": {
            "windows": len(made),
            "ours_ms": round(refresh * 1000, 1),
            "sql_ms": round(sql_refresh * 1000, 1),
        },
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> int:
    parser = command("windows", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--seconds", type=int, default=10, help="seconds of outcomes in a round")
    arguments = parser.parse_args()
    return report(lambda: measure(max(1, arguments.rounds), max(1, arguments.seconds)))


if __name__ == "__main__":
    sys.exit(main())
