"""Windows on real PostgreSQL: each published once per revision, whatever is undone or lost in between."""

import asyncio
import contextlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from feedback_metrics_rig import Event, WindowKey, compare, content, oracle
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics, QueryMetricsRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback import leader, metrics_store
from services.feedback.intake import Bell
from services.feedback.leader import Leader
from services.feedback.metrics_answers import queried
from services.feedback.metrics_columns import MOST_MS
from services.feedback.metrics_spec import SECOND, parse_windows
from services.feedback.outcome_rows import outcome_row
from services.feedback.outcome_store import store_outcomes
from services.feedback.server import MIGRATIONS
from services.feedback.settings import FeedbackSettings
from services.mesh.errors import InvalidArgument, OutOfRange, Unavailable
from services.mesh.events import EventBus, Message, Record, create_bus
from services.mesh.feedback.outcome import outcome
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A whole minute, and so the begin of a window.
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPECS = parse_windows("60s,180s/60s")
KEPT = [spec.name for spec in SPECS]
LATENESS_S = 300
GUARD_S = 60


class Unsteady:
    """A bus that fails now and then, after it has published and before the transaction commits."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self.fails = 0

    async def publish(self, connection: asyncpg.Connection, messages: Sequence[Message]) -> None:
        await self._bus.publish(connection, messages)
        if self.fails:
            self.fails -= 1
            raise Unavailable("the store went away before the commit")


class Rig:
    """Replicas over one store, a clock that is set, and everything that was published."""

    def __init__(self, dsn: str, database: Store, bus: EventBus) -> None:
        self.dsn = dsn
        self.database = database
        self.bus = Unsteady(bus)
        self.now = NOON
        self.published: list[AgentMetrics] = []
        self.bell = Bell()
        self._bus = bus
        self._tasks: list[asyncio.Task[None]] = []
        self._numbers = 0

    def replica(self) -> asyncio.Task[None]:
        one = Leader(
            self.database,
            self.bus,
            self.bell,
            specs=SPECS,
            lateness_s=LATENESS_S,
            keep_days=30,
            telemetry=Telemetry("test"),
            clock=lambda: self.now,
        )
        task = asyncio.create_task(one.run())
        self._tasks.append(task)
        return task

    def read(self) -> None:
        async def take(records: list[Record]) -> None:
            self.published += [AgentMetrics.FromString(record.value) for record in records]
            for record, one in zip(records, self.published[-len(records) :], strict=True):
                assert (record.event_id, record.key) == (one.metrics_id, one.agent_name)
                assert record.type == "waymesh.feedback.v1.AgentMetrics"

        self._tasks.append(asyncio.create_task(self._bus.broadcast(["agent-metrics"], take).run()))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def event(
        self, at: datetime, agent: str = "agent", latency_ms: float = 10.0, **fields: object
    ) -> OutcomeEvent:
        self._numbers += 1
        made = outcome(
            agent_name=agent,
            agent_type="engine",
            action_type="work",
            started=at - timedelta(milliseconds=latency_ms),
            duration_ms=latency_ms,
            status=1,
        )
        made.timestamp.FromDatetime(at)
        made.MergeFrom(OutcomeEvent(event_id=f"event-{self._numbers}", **fields))
        return made

    async def record(self, *events: OutcomeEvent) -> None:
        async with self.database.transaction() as connection:
            await store_outcomes(connection, [outcome_row(event) for event in events], self.now)
        self.bell.ring()

    async def windows(self) -> list[AgentMetrics]:
        return [
            AgentMetrics.FromString(row["body"])
            for row in await self.database.pool.fetch("SELECT body FROM windows")
        ]

    async def settled(self) -> None:
        """Every outcome is in its windows, and what is published has been read."""

        async def reached() -> bool:
            async with self.database.pool.acquire() as connection:
                heads = await metrics_store.heads(connection)
                at = await metrics_store.position(connection)
            if at.number != heads.outcomes:
                return False
            closed = {one.metrics_id for one in await self.windows() if one.revision}
            return closed <= {one.metrics_id for one in self.published}

        await until(reached)

    async def lose_leader(self) -> bool:
        """Ends the connection of whoever leads; whether anybody did."""
        return bool(
            await self.database.pool.fetchval(
                """
                SELECT count(pg_terminate_backend(pid)) FROM pg_locks
                WHERE locktype = 'advisory' AND granted
                  AND classid = hashtext('feedback.windows')::oid AND objid = hashtext('feedback')::oid
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                """
            )
        )


async def test_windows_of_sums_that_ran_over_are_told_as_finite(rig: Rig) -> None:
    written = AgentMetrics(agent_name="agent", window="60s", outcomes=1, average_latency_ms=math.inf)
    written.cost_estimate = math.nan
    written.window_start.FromDatetime(NOON)
    written.window_end.FromDatetime(NOON + timedelta(minutes=1))
    async with rig.database.pool.acquire() as connection:
        await metrics_store.write(connection, [written])
    [found] = (await queried(rig.database, QueryMetricsRequest(), KEPT)).metrics
    assert (found.average_latency_ms, found.cost_estimate) == (MOST_MS, MOST_MS)


async def until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(GUARD_S):
        while not await reached():
            await asyncio.sleep(0.02)


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    store = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    settings = FeedbackSettings(
        port=0, admin=0, data_dir=tmp_path, database_url=None, kafka_bootstrap_servers=None
    )
    bus = create_bus(settings, service="feedback", pool=store.pool)
    await bus.start()
    made = Rig(database, store, bus)
    made.read()
    yield made
    await made.close()
    await bus.close()
    await store.close()


def together(windows: Sequence[AgentMetrics], name: str = "60s") -> list[tuple[int, int, int]]:
    """Minute, revision and outcomes of the windows of all agents together."""
    noon = round(NOON.timestamp())
    return [
        ((one.window_start.seconds - noon) // 60, one.revision, one.outcomes)
        for one in windows
        if one.window == name and not one.agent_name
    ]


async def test_an_open_window_is_stored_and_a_closed_one_is_published_once(rig: Rig) -> None:
    rig.replica()
    await rig.record(rig.event(NOON), rig.event(NOON + timedelta(seconds=59)))
    rig.now = NOON + timedelta(seconds=59)
    await rig.settled()
    assert together(await rig.windows()) == [(0, 0, 2)]
    # The border belongs to the next one; the watermark is there, so the first one is closed.
    rig.now = NOON + timedelta(seconds=60)
    await rig.record(rig.event(NOON + timedelta(seconds=60)))
    await rig.settled()
    assert sorted(together(await rig.windows())) == [(0, 1, 2), (1, 0, 1)]
    assert together(rig.published) == [(0, 1, 2)]


async def test_a_window_closes_by_the_clock_when_nothing_comes_any_more(rig: Rig) -> None:
    rig.replica()
    await rig.record(rig.event(NOON))
    await rig.settled()
    rig.now = NOON + timedelta(seconds=61)
    # One more look of the leader: another outcome, of a time that moves no watermark.
    await rig.record(rig.event(NOON + timedelta(seconds=1)))
    await rig.settled()
    assert together(rig.published) == []
    rig.now = NOON + timedelta(seconds=64)

    async def closed() -> bool:
        return together(rig.published) == [(0, 1, 2)]

    await until(closed)


async def test_what_comes_late_corrects_a_published_window_and_what_comes_too_late_does_not(rig: Rig) -> None:
    rig.replica()
    await rig.record(rig.event(NOON, latency_ms=10))
    rig.now = NOON + timedelta(seconds=200)
    await rig.record(rig.event(rig.now))
    await rig.settled()
    # Both make one correction: a published window rests for a second.
    await rig.record(rig.event(NOON + timedelta(seconds=5), latency_ms=20))
    await rig.record(rig.event(NOON + timedelta(seconds=6), latency_ms=15))
    await rig.settled()
    rig.now += timedelta(seconds=1)

    async def corrected() -> bool:
        return together(rig.published) == [(0, 1, 1), (0, 2, 3)]

    await until(corrected)
    assert [
        one.average_latency_ms for one in rig.published if one.window == "60s" and not one.agent_name
    ] == [10, 15]
    rig.now = NOON + timedelta(seconds=LATENESS_S + 6)
    await rig.record(rig.event(rig.now))
    await rig.record(rig.event(NOON + timedelta(seconds=5)))
    await rig.settled()
    assert sorted(together(rig.published)) == [(0, 1, 1), (0, 2, 3), (3, 1, 1)]
    async with rig.database.pool.acquire() as connection:
        assert (await metrics_store.position(connection)).too_late == 1


async def test_windows_go_on_after_a_restart_as_if_there_had_been_none(rig: Rig) -> None:
    first = rig.replica()
    await rig.record(rig.event(NOON, workflow_id="w"), rig.event(NOON + timedelta(seconds=30), latency_ms=30))
    await rig.settled()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    rig.replica()
    rig.now = NOON + timedelta(seconds=60)
    await rig.record(
        rig.event(NOON + timedelta(seconds=31), latency_ms=50, workflow_id="w"), rig.event(rig.now)
    )
    await rig.settled()
    published = next(one for one in rig.published if one.window == "60s" and not one.agent_name)
    assert (published.revision, published.outcomes, published.p50_latency_ms) == (1, 3, 30)
    assert (published.workflows, published.p50_workflow_ms) == (1, 31_010)


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_published_twice_or_lost_by_rollbacks_and_lost_leaders(
    rig: Rig, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leader, "_REBUILD_BATCH", 7)
    chance = random.Random(seed)
    for _ in range(2):
        rig.replica()
    lost = undone = 0
    for _ in range(40):
        rig.now += timedelta(seconds=chance.choice((0, 1, 7, 20, 45)))
        batch = []
        for _ in range(chance.randint(1, 12)):
            at = rig.now - timedelta(seconds=chance.choice((0, 0.25, 3, 40, 150, 299, 301, 500)))
            workflow = chance.choice(("", "w1", "w2"))
            agent = f"agent-{chance.randrange(3)}"
            batch.append(rig.event(at, agent, chance.uniform(0, 100), workflow_id=workflow))
        with contextlib.suppress(Unavailable):
            await rig.record(*batch)
        match chance.randrange(6):
            case 0:
                lost += await rig.lose_leader()
            case 1:
                rig.bus.fails = 1
                undone += 1
            case 2:
                await rig.settled()
            case _:
                await asyncio.sleep(chance.random() * 0.1)
    # The clock closes what is open.
    await rig.settled()
    rig.now += timedelta(seconds=600)

    expected, too_late = await by_sql(rig)

    async def complete() -> bool:
        windows = await rig.windows()
        outcomes = sum(one.outcomes for one in windows)
        return all(one.revision for one in windows) and outcomes == sum(
            e["outcomes"] for e in expected.values()
        )

    await until(complete)
    await rig.settled()
    assert lost
    assert undone
    # Revisions grow by one, each for a change, and the last ones are what SQL makes of all outcomes.
    last: dict[tuple[str, int, str], AgentMetrics] = {}
    for one in rig.published:
        key = (one.window, one.window_start.seconds, one.agent_name)
        before = last.get(key)
        assert one.revision == (before.revision if before else 0) + 1
        assert before is None or content(one) != content(before)
        last[key] = one
    assert last == {
        (one.window, one.window_start.seconds, one.agent_name): one for one in await rig.windows()
    }
    assert expected.keys() == last.keys()
    for key, window in last.items():
        compare(expected[key], window)
    async with rig.database.pool.acquire() as connection:
        assert (await metrics_store.position(connection)).too_late == too_late > 0


async def by_sql(rig: Rig) -> tuple[dict[WindowKey, dict[str, Any]], int]:
    """The windows of all outcomes, and how many of these came too late."""
    rows = await rig.database.pool.fetch(f"SELECT {', '.join(Event._fields)} FROM outcomes ORDER BY number")
    events = [
        Event(*(micros(value) if isinstance(value, datetime) else value for value in row)) for row in rows
    ]
    async with oracle(rig.dsn, SPECS, LATENESS_S * SECOND) as sql:
        (expected,) = await sql.windows([events])
        return expected, (await sql.too_late())[0]


def micros(time: datetime) -> int:
    return (time - EPOCH) // timedelta(microseconds=1)


async def test_metrics_are_filtered_and_come_in_pages(rig: Rig) -> None:
    rig.replica()
    agents = ["b", "a", "ä" * 128]
    for minute in range(5):
        rig.now = NOON + timedelta(minutes=minute)
        await rig.record(*(rig.event(rig.now, agent) for agent in agents))
    await rig.settled()

    async def asked(**wanted: object) -> list[tuple[int, str, str]]:
        found, token = [], ""
        while True:
            request = QueryMetricsRequest(page_size=7, page_token=token, **wanted)
            answer = await queried(rig.database, request, KEPT)
            found += answer.metrics
            token = answer.next_page_token
            if not token:
                noon = round(NOON.timestamp())
                return [((m.window_start.seconds - noon) // 60, m.agent_name[:1], m.window) for m in found]

    everything = await asked()
    assert everything == sorted(everything, key=lambda one: (-one[0], one[1], one[2]))
    assert len(everything) == len(set(everything)) == (5 + 7) * 4
    assert await asked(window="60s", together_only=True) == [(n, "", "60s") for n in (4, 3, 2, 1, 0)]
    assert await asked(window="60s", agent_names=["a", "none"]) == [(n, "a", "60s") for n in (4, 3, 2, 1, 0)]
    times = QueryMetricsRequest()
    times.start_time.FromDatetime(NOON + timedelta(seconds=60))
    times.end_time.FromDatetime(NOON + timedelta(seconds=120))
    wanted = {"start_time": times.start_time, "end_time": times.end_time, "agent_names": ["a"]}
    # Those that end at the start, or begin at the end, share nothing with it.
    assert await asked(window="60s", **wanted) == [(1, "a", "60s")]
    assert await asked(window="180s/60s", **wanted) == [(n, "a", "180s/60s") for n in (1, 0, -1)]

    for field, wrong in (
        ("together_only", QueryMetricsRequest(agent_names=["a"], together_only=True)),
        ("window", QueryMetricsRequest(window="61s")),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await queried(rig.database, wrong, KEPT)
        assert [each.field for each in refused.value.violations] == [field]
    assert refused.value.message == f"window: must be one of {', '.join(KEPT)}, or empty for all"
    # What was made under another setting is still there to be read.
    assert (await queried(rig.database, QueryMetricsRequest(window="60s"), ["7s"])).metrics

    first = await queried(rig.database, QueryMetricsRequest(page_size=1), KEPT)
    await rig.database.pool.execute("DELETE FROM windows")
    with pytest.raises(OutOfRange):
        await queried(rig.database, QueryMetricsRequest(page_token=first.next_page_token), KEPT)
    with pytest.raises(InvalidArgument):
        await queried(rig.database, QueryMetricsRequest(page_token="nonsense"), KEPT)


async def test_windows_kept_long_enough_go_a_chunk_at_a_time(rig: Rig) -> None:
    task = rig.replica()
    await rig.record(rig.event(NOON), rig.event(NOON + timedelta(seconds=100)))
    await rig.settled()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with rig.database.pool.acquire() as connection:
        count = len(await rig.windows())
        assert await metrics_store.discard(connection, datetime.now(UTC) - timedelta(days=1), 3) == 0
        assert await metrics_store.discard(connection, datetime.now(UTC) + timedelta(days=1), 3) == 3
        assert len(await rig.windows()) == count - 3
