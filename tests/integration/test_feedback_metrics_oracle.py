"""Windows of random streams, with outcomes late and out of order, are what plain SQL makes of the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import asyncpg
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.metrics_columns import ABSENT, Columns
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.panes import Span
from services.feedback.windows import Windows
from services.mesh.store import connect

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BASE = 1_767_225_600 * SECOND
SPECS = parse_windows("2s,6s/2s")
LATENESS = 7 * SECOND
STREAMS = 20
EXAMPLES = 100
TYPES = ("", "", "", "ValueError", "TimeoutError", "Ärger", "z")


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


@dataclass
class Stream:
    """Outcomes in the order of their numbers, where batches end, and where the windows are made anew."""

    events: list[Event]
    cuts: list[int]
    restarts: frozenset[int]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    count = draw(st.integers(1, 24))
    # One draw an outcome keeps thousands of streams affordable; the digits of the number are its fields.
    events, stored_at = [], BASE
    for number, code in enumerate(draw(st.lists(st.integers(0, 2**62), min_size=count, max_size=count)), 1):
        # Small numbers, of which there are many, are to differ in all their digits.
        code = code * 0x9E3779B97F4A7C15 % 2**62

        def digit(base: int) -> int:
            nonlocal code
            code, found = divmod(code, base)
            return found

        # Mostly forward; the clock of arrival may go back a little.
        stored_at += (-1_500_000, 0, 1, 250_000, 1_000_000, 2_500_000, 9_000_000)[digit(7)]
        # On time, late, too late, ahead; on borders, too.
        offset = (0, 0, -1, -300_000, -2_000_000, -5_000_001, -7_000_000, -12_000_000, -40_000_000, 3_000_000)
        at = stored_at + offset[digit(10)]
        if digit(4) == 0:
            at = at // SECOND * SECOND
        started = None if digit(5) == 0 else at - digit(4) * 1_234_567
        ended = None if digit(5) == 0 else max(at - digit(2) * 3, started or 0)
        events.append(
            Event(
                number, stored_at, at, f"agent-{digit(3)}", 1 + digit(5), 1 + digit(4),
                ("", "w1", "w2", "w3")[digit(4)],
                (1.5, 2.25, 1000 / 3, 0.1, 0.0, 12.0)[digit(6)] * (1 + digit(5)),
                TYPES[digit(7)], digit(1000) * 4_000_000, digit(100) / 7, started, ended,
            )
        )  # fmt: skip
    marks = draw(st.integers(0, 2 ** (2 * count)))
    cuts = [n for n in range(1, count) if marks >> n & 1]
    return Stream(events, [*cuts, count], frozenset(n for n in cuts if marks >> (count + n) & 1))


def columns(events: Sequence[Event]) -> Columns:
    def ints(values: Iterable[int | None]) -> Any:
        return np.array([ABSENT if value is None else value for value in values], dtype=np.int64)

    by_name = {name: [getattr(event, name) for event in events] for name in Event._fields}
    floats = {name: np.array(by_name[name], dtype=np.float64) for name in ("latency_ms", "cost_estimate")}
    texts = {name: by_name[name] for name in ("agent_name", "error_type", "workflow_id")}
    rest = {name: ints(by_name[name]) for name in Event._fields if name not in {*floats, *texts}}
    return Columns(**floats, **texts, **rest)


@dataclass
class Kept:
    """What the store holds of one stream: the outcomes, which of them came too late, the windows."""

    seen: list[Event] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    too_late: int = 0
    watermark: int = 0
    windows: dict[tuple[str, int, str], AgentMetrics] = field(default_factory=dict)

    def workflows(self, ids: Sequence[str], before: float = math.inf) -> dict[str, Span]:
        """As metrics_store.workflows."""
        found: dict[str, Span] = {}
        for one in self.seen:
            if one.workflow_id in ids and one.number not in self.late and one.at < before:
                times = (one.at, *(ABSENT if t is None else t for t in (one.started, one.ended)))
                span = found.get(one.workflow_id)
                found[one.workflow_id] = Span(*times) if span is None else span.with_one(*times)
        return found

    def windows_again(self, now: int) -> Windows:
        """As Leader makes them of what is stored."""
        made = Windows(SPECS, LATENESS)
        made.watermark = self.watermark
        kept_from, final_to = made.kept_from, made.final_to
        made = Windows(SPECS, LATENESS)
        again = [event for event in self.seen if event.at >= kept_from]
        for start in range(0, len(again), 5):
            some = columns(again[start : start + 5])
            made.add(some, self.workflows(made.strangers(some), before=kept_from), now)
        stored = [one for one in self.windows.values() if one.window_end.seconds * SECOND > final_to]
        made.restore(self.watermark, self.too_late, stored, now)
        return made


def run(stream: Stream) -> tuple[Kept, list[AgentMetrics]]:
    """The windows at the end, and what was published, in order. The clock stands still, long before them."""
    kept, published = Kept(), []
    windows = Windows(SPECS, LATENESS)
    start = 0
    for end in stream.cuts:
        batch = columns(stream.events[start:end])
        known = kept.workflows(windows.strangers(batch))
        kept.late.update(windows.add(batch, known, 0))
        for one in windows.flush(0):
            kept.windows[one.window, one.window_start.seconds, one.agent_name] = one
            if one.revision:
                published.append(one)
        kept.seen += stream.events[start:end]
        kept.watermark, kept.too_late = windows.watermark, windows.too_late
        if end in stream.restarts:
            windows = kept.windows_again(0)
        start = end
    return kept, published


TABLE = """
CREATE TEMP TABLE streams (stream integer, number bigint, stored_at bigint, at bigint,
  agent_name text COLLATE "C", status smallint, severity smallint, workflow_id text, latency_ms float8,
  error_type text COLLATE "C",
  tokens_used bigint, cost_estimate float8, started bigint, ended bigint);
CREATE TEMP TABLE specs (window_name text, size bigint, step bigint);
CREATE TEMP VIEW marked AS
  SELECT *, max(least(at, stored_at)) OVER (PARTITION BY stream ORDER BY number) AS mark FROM streams;
"""
# $1: the lateness. An outcome that is too late at its place is left out altogether.
PLACED = """
WITH taken AS (SELECT * FROM marked WHERE at >= mark - $1),
placed AS (
  SELECT t.*, window_name, k * step AS start, k * step + size AS ends
  FROM taken t, specs, generate_series(at / step - size / step, at / step) AS k
  WHERE k * step <= at AND at < k * step + size
)
"""
METRICS = (
    PLACED
    + """
SELECT stream, window_name AS window, start, coalesce(agent_name, '') AS agent_name, count(*) AS outcomes,
  count(*) FILTER (WHERE status = 1) AS successes, count(*) FILTER (WHERE status = 2) AS failures,
  count(*) FILTER (WHERE status = 4) AS timeouts, count(*) FILTER (WHERE status = 3) AS partial,
  count(*) FILTER (WHERE status = 5) AS cancelled, count(*) FILTER (WHERE severity >= 3) AS errors,
  count(*) FILTER (WHERE status = 1)::float8 / count(*) AS success_rate,
  count(*) FILTER (WHERE status IN (2, 4))::float8 / count(*) AS failure_rate,
  count(*) FILTER (WHERE severity >= 3)::float8 / count(*) AS error_rate,
  avg(latency_ms) AS average_latency_ms,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_ms) AS p50_latency_ms,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) AS p95_latency_ms,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_ms) AS p99_latency_ms,
  sum(tokens_used)::float8 AS tokens_used, sum(cost_estimate) AS cost_estimate
FROM placed
GROUP BY GROUPING SETS ((stream, window_name, start, agent_name), (stream, window_name, start))
"""
)
ERROR_TYPES = (
    PLACED
    + """
SELECT stream, window_name AS window, start, coalesce(agent_name, '') AS agent_name, error_type, count(*)
FROM placed WHERE error_type <> ''
GROUP BY GROUPING SETS ((stream, window_name, start, agent_name, error_type),
  (stream, window_name, start, error_type))
ORDER BY count(*) DESC, error_type
"""
)
# A window is what it was when the watermark came a lateness past its end: workflows that go on stay in it.
WORKFLOWS = (
    PLACED
    + """
, whole AS (SELECT DISTINCT stream, window_name, start, ends FROM placed),
spans AS (
  SELECT w.stream, window_name, start, workflow_id, (max(ended) - min(started))::float8 / 1000 AS ms
  FROM whole w JOIN taken t ON t.stream = w.stream AND t.workflow_id <> '' AND t.mark - $1 < w.ends
  GROUP BY w.stream, window_name, start, ends, workflow_id HAVING max(at) >= start AND max(at) < ends
)
SELECT stream, window_name AS window, start, count(*) AS workflows, avg(ms) AS average_workflow_ms,
  percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) AS p50_workflow_ms,
  percentile_cont(0.95) WITHIN GROUP (ORDER BY ms) AS p95_workflow_ms,
  percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) AS p99_workflow_ms
FROM spans GROUP BY stream, window_name, start
"""
)
CLOSE = ("average_latency_ms", "cost_estimate", "average_workflow_ms")


class Oracle:
    """Plain SQL over all outcomes of some streams at once."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def windows(self, some: Sequence[Stream]) -> list[dict[tuple[str, int, str], dict[str, Any]]]:
        rows = [(place, *event) for place, stream in enumerate(some) for event in stream.events]
        await self._connection.execute("TRUNCATE streams")
        await self._connection.copy_records_to_table("streams", records=rows)
        found: list[dict[tuple[str, int, str], dict[str, Any]]] = [{} for _ in some]
        for row in await self._connection.fetch(METRICS, LATENESS):
            stream, window, start, agent, *_ = row.values()
            found[stream][window, start // SECOND, agent] = {**dict(list(row.items())[4:]), "error_types": []}
        for stream, window, start, agent, name, count in await self._connection.fetch(ERROR_TYPES, LATENESS):
            found[stream][window, start // SECOND, agent]["error_types"].append((name, count))
        for row in await self._connection.fetch(WORKFLOWS, LATENESS):
            stream, window, start, *_ = row.values()
            found[stream][window, start // SECOND, ""] |= dict(list(row.items())[3:])
        return found

    async def too_late(self) -> Mapping[int, int]:
        return dict(
            await self._connection.fetch(
                "SELECT stream, count(*) FILTER (WHERE at < mark - $1) FROM marked GROUP BY stream", LATENESS
            )
        )


@asynccontextmanager
async def oracle(dsn: str) -> AsyncIterator[Oracle]:
    connection = await connect(dsn)
    try:
        await connection.execute(TABLE)
        await connection.copy_records_to_table(
            "specs", records=[(one.name, one.size, one.step) for one in SPECS]
        )
        yield Oracle(connection)
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


def test_windows_of_2000_random_streams_are_what_sql_makes_of_them(postgres_dsn: str) -> None:
    with asyncio.Runner() as runner:
        context = oracle(postgres_dsn)
        sql = runner.run(context.__aenter__())

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=(Phase.explicit, Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(streams(), min_size=STREAMS, max_size=STREAMS))
        def check(some: list[Stream]) -> None:
            expected = runner.run(sql.windows(some))
            too_late = runner.run(sql.too_late())
            for place, stream in enumerate(some):
                kept, published = run(stream)
                assert kept.windows.keys() == expected[place].keys()
                for key, window in kept.windows.items():
                    compare(expected[place][key], window)
                assert kept.too_late == too_late[place]
                check_publication(kept, published)

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))


def check_publication(kept: Kept, published: Sequence[AgentMetrics]) -> None:
    """Each revision once, in order, each for a change; the last one is what is stored."""
    last: dict[tuple[str, int, str], AgentMetrics] = {}
    for one in published:
        key = one.window, one.window_start.seconds, one.agent_name
        before = last.get(key)
        assert one.revision == (before.revision if before is not None else 0) + 1
        if before is not None:
            assert content(one) != content(before)
        last[key] = one
    assert last == {key: one for key, one in kept.windows.items() if one.revision}
    for one in kept.windows.values():
        assert (one.revision > 0) == (one.window_end.seconds * SECOND <= kept.watermark)


def content(window: AgentMetrics) -> AgentMetrics:
    told = AgentMetrics()
    told.CopyFrom(window)
    told.ClearField("revision")
    told.ClearField("metrics_id")
    return told


def test_the_streams_hold_what_they_are_for() -> None:
    """Late, too late and ahead, workflows that move, restarts: nothing of it is left to luck alone."""
    seen = {"late": 0, "too late": 0, "corrections": 0, "restarts": 0, "batches": 0}

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(streams())
    def look(stream: Stream) -> None:
        kept, published = run(stream)
        seen["too late"] += kept.too_late
        seen["corrections"] += sum(one.revision > 1 for one in published)
        seen["restarts"] += len(stream.restarts)
        seen["batches"] += len(stream.cuts)
        marks = np.maximum.accumulate([min(one.at, one.stored_at) for one in stream.events])
        seen["late"] += sum(one.at < mark for one, mark in zip(stream.events, marks, strict=True))

    look()
    assert all(seen.values()), seen
