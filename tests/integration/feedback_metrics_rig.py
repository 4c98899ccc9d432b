"""Windows by plain SQL over all outcomes at once, to hold those of feedback against.

Of each agent, of all agents of each tenant, and of the mesh.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import asyncpg
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.metrics_spec import SECOND, WindowSpec
from services.mesh.store import connect

WindowKey = tuple[str, int, str]


class Event(NamedTuple):
    """One outcome; times in Unix microseconds."""

    number: int
    stored_at: int
    at: int
    agent_name: str
    status: int
    severity: int
    workflow_id: str
    latency_ms: float
    error_type: str
    tokens_used: int
    cost_estimate: float
    started: int | None
    ended: int | None


def content(window: AgentMetrics) -> AgentMetrics:
    told = AgentMetrics()
    told.CopyFrom(window)
    told.ClearField("revision")
    told.ClearField("metrics_id")
    return told


TABLE = """
CREATE TEMP TABLE streams (stream integer, number bigint, stored_at bigint, at bigint,
  agent_name text COLLATE "C", status smallint, severity smallint, workflow_id text, latency_ms float8,
  error_type text COLLATE "C",
  tokens_used bigint, cost_estimate float8, started bigint, ended bigint);
CREATE TEMP TABLE specs (window_name text, size bigint, step bigint);
CREATE TEMP VIEW marked AS
  SELECT *, max(least(at, stored_at)) OVER (PARTITION BY stream ORDER BY number) AS mark FROM streams;
"""
# $1: the lateness. An outcome that is too late at its place, or a day ahead, is left out altogether.
PLACED = """
WITH taken AS (SELECT * FROM marked WHERE at >= mark - $1 AND at <= stored_at + 86400000000),
placed AS (
  SELECT t.*, window_name, k * step AS start, k * step + size AS ends,
    CASE WHEN agent_name LIKE '%/%' THEN split_part(agent_name, '/', 1) || '/' ELSE '' END AS total
  FROM taken t, specs, generate_series(at / step - size / step, at / step) AS k
  WHERE k * step <= at AND at < k * step + size
)
"""
METRICS = (
    PLACED
    + """
SELECT stream, window_name AS window, start, coalesce(agent_name, total, '*/') AS agent_name,
  count(*) AS outcomes,
  count(*) FILTER (WHERE status = 1) AS successes, count(*) FILTER (WHERE status = 2) AS failures,
  count(*) FILTER (WHERE status = 4) AS timeouts, count(*) FILTER (WHERE status = 3) AS partial,
  count(*) FILTER (WHERE status = 5) AS cancelled, count(*) FILTER (WHERE severity >= 3) AS errors,
  count(*) FILTER (WHERE status = 1)::float8 / count(*) AS success_rate,
  count(*) FILTER (WHERE status IN (2, 4) AND severity >= 3)::float8 / count(*) AS failure_rate,
  count(*) FILTER (WHERE severity >= 3)::float8 / count(*) AS error_rate,
  avg(latency_ms) AS average_latency_ms,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_latency_ms,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_latency_ms,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99_latency_ms,
  sum(tokens_used)::float8 AS tokens_used, sum(cost_estimate) AS cost_estimate
FROM placed
GROUP BY GROUPING SETS ((stream, window_name, start, agent_name), (stream, window_name, start, total),
  (stream, window_name, start))
-- Of the mesh there is one where there is another tenant than the default one.
HAVING GROUPING(agent_name, total) < 3 OR bool_or(total <> '')
"""
)
ERROR_TYPES = (
    PLACED
    + """
SELECT stream, window_name AS window, start, coalesce(agent_name, total, '*/') AS agent_name, error_type,
  count(*)
FROM placed WHERE error_type <> ''
GROUP BY GROUPING SETS ((stream, window_name, start, agent_name, error_type),
  (stream, window_name, start, total, error_type), (stream, window_name, start, error_type))
ORDER BY count(*) DESC, error_type
"""
)
# A window is what it was when the watermark came a lateness past its end: workflows that go on stay in it.
WORKFLOWS = (
    PLACED
    + """
, whole AS (SELECT DISTINCT stream, window_name, start, ends FROM placed),
spans AS (
  SELECT w.stream, window_name, start, workflow_id, (max(ended) - min(started))::float8 / 1000 AS ms,
    CASE WHEN workflow_id LIKE '%/%' THEN split_part(workflow_id, '/', 1) || '/' ELSE '' END AS total
  FROM whole w JOIN taken t ON t.stream = w.stream AND t.workflow_id <> '' AND t.mark - $1 < w.ends
  GROUP BY w.stream, window_name, start, ends, workflow_id HAVING max(at) >= start AND max(at) < ends
)
SELECT stream, window_name AS window, start, coalesce(total, '*/') AS agent_name,
  count(*) AS workflows, avg(ms) AS average_workflow_ms,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50_workflow_ms,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95_workflow_ms,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99_workflow_ms
FROM spans GROUP BY GROUPING SETS ((stream, window_name, start, total), (stream, window_name, start))
"""
)
TOO_LATE = """
SELECT stream, count(*) FILTER (WHERE at < mark - $1 OR at > stored_at + 86400000000)
FROM marked GROUP BY stream
"""
CLOSE = ("average_latency_ms", "cost_estimate", "average_workflow_ms")


class Oracle:
    """Plain SQL over all outcomes of some streams at once."""

    def __init__(self, connection: asyncpg.Connection, lateness: int) -> None:
        self._connection = connection
        self._lateness = lateness

    async def windows(self, some: Sequence[Sequence[Event]]) -> list[dict[WindowKey, dict[str, Any]]]:
        """Per stream: a window's name, start in seconds and agent, to its figures."""
        rows = [(place, *event) for place, events in enumerate(some) for event in events]
        await self._connection.execute("TRUNCATE streams")
        await self._connection.copy_records_to_table("streams", records=rows)
        found: list[dict[WindowKey, dict[str, Any]]] = [{} for _ in some]
        for row in await self._all(METRICS):
            stream, window, start, agent, *_ = row.values()
            found[stream][window, start // SECOND, agent] = {**dict(list(row.items())[4:]), "error_types": []}
        for stream, window, start, agent, name, count in await self._all(ERROR_TYPES):
            if (one := found[stream].get((window, start // SECOND, agent))) is not None:
                one["error_types"].append((name, count))
        for row in await self._all(WORKFLOWS):
            stream, window, start, agent, *_ = row.values()
            if (one := found[stream].get((window, start // SECOND, agent))) is not None:
                one |= dict(list(row.items())[4:])
        return found

    async def too_late(self) -> Mapping[int, int]:
        """Outcomes too late, per stream."""
        return dict(await self._all(TOO_LATE))

    async def _all(self, query: str) -> Sequence[asyncpg.Record]:
        found: Sequence[asyncpg.Record] = await self._connection.fetch(query, self._lateness)
        return found


@asynccontextmanager
async def oracle(dsn: str, specs: Sequence[WindowSpec], lateness: int) -> AsyncIterator[Oracle]:
    connection = await connect(dsn)
    try:
        await connection.execute(TABLE)
        await connection.copy_records_to_table(
            "specs", records=[(one.name, one.size, one.step) for one in specs]
        )
        yield Oracle(connection, lateness)
    finally:
        await connection.close()


def compare(expected: Mapping[str, Any], found: AgentMetrics) -> None:
    """Counts and percentiles to the last bit, sums of floats to 1e-9."""
    for name, value in expected.items():
        if name == "error_types":
            assert [(one.error_type, one.count) for one in found.error_types] == value
        elif value is None:
            assert not found.HasField(name)
        elif name in CLOSE:
            assert math.isclose(getattr(found, name), value, rel_tol=1e-9, abs_tol=1e-12), (name, found)
        else:
            assert getattr(found, name) == value, (name, found)
    if "workflows" not in expected:
        assert found.workflows == 0
        assert not found.HasField("average_workflow_ms")
