"""Outcomes by the day they arrived: midnight, days kept and gone, identity whatever the day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.feedback.v1.signal_pb2 import Signal

from services.feedback import store
from services.feedback.days import Days
from services.feedback.intake import Intake
from services.feedback.server import MIGRATIONS
from services.feedback.settings import FeedbackSettings
from services.feedback.store import Fate, Filter
from services.mesh.events import EventBus, create_bus
from services.mesh.store import Store, connect

MIDNIGHT = datetime(2026, 3, 2, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Kept:
    """A store with its intake, by a clock of the test's."""

    def __init__(self, database: Store, bus: EventBus) -> None:
        self.clock = Clock(MIDNIGHT - SECOND)
        self.pool = database.pool
        self.intake = Intake(database, bus, self.clock)

    def days(self, keep_days: int) -> Days:
        return Days(self.pool, keep_days, self.clock)

    async def partitions(self) -> dict[date, int]:
        """Rows by day."""
        rows = await self.pool.fetch(
            "SELECT tableoid::regclass::text AS name, count(*) AS count FROM outcomes GROUP BY 1 ORDER BY 1"
        )
        return {datetime.strptime(name, "outcomes_%Y%m%d").date(): count for name, count in rows}  # noqa: DTZ007 - a day

    async def listed(self) -> list[str]:
        found = await store.newest_outcomes(self.pool, Filter(), 1000, None)
        return [OutcomeEvent.FromString(one.body).event_id for one in found]


@pytest.fixture
async def kept(database: str, tmp_path: Path) -> AsyncIterator[Kept]:
    opened = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    settings = FeedbackSettings(port=0, admin=0, data_dir=tmp_path, database_url=None)
    bus = create_bus(settings, service="feedback", pool=opened.pool)
    await bus.start()
    made = Kept(opened, bus)
    yield made
    await made.intake.close()
    await bus.close()
    await opened.close()


def event(name: str, *, at: int = 1_700_000_000, **changes: object) -> OutcomeEvent:
    made = OutcomeEvent(
        event_id=name, run_id="run", agent_name="agent", action_type="act", status=1, severity=1, **changes
    )  # type: ignore[arg-type]
    made.timestamp.seconds = at
    return made


async def test_outcomes_go_into_the_day_on_which_they_arrive_whatever_their_own_time(kept: Kept) -> None:
    await kept.days(30).ahead()
    await kept.intake.outcomes([event("a", at=1), event("b")])
    kept.clock.now = MIDNIGHT
    await kept.intake.outcomes([event("c", at=4_000_000_000)])
    assert await kept.partitions() == {date(2026, 3, 1): 2, date(2026, 3, 2): 1}
    assert await kept.listed() == ["c", "b", "a"]


async def test_a_write_does_not_fail_because_its_day_is_not_there(kept: Kept) -> None:
    for days in range(3):
        kept.clock.now = MIDNIGHT + timedelta(days=10 * days)
        assert await kept.intake.outcomes([event(f"e{days}")]) == [Fate.STORED]
    assert len(await kept.partitions()) == 3
    numbers, last = await store.outcomes_after(kept.pool, 0, Filter(), 10)
    assert ([one.number for one in numbers], last) == ([1, 2, 3], 3)


async def test_an_id_is_known_across_days_whatever_time_it_comes_with(kept: Kept) -> None:
    await kept.intake.outcomes([event("a"), event("b")])
    kept.clock.now = MIDNIGHT + timedelta(days=2)
    assert await kept.intake.outcomes(
        [event("b"), event("a", at=5), event("c"), event("a", agent_type="other"), event("c")]
    ) == [Fate.DUPLICATE, Fate.CONFLICT, Fate.STORED, Fate.CONFLICT, Fate.DUPLICATE]
    assert sorted(await kept.listed()) == ["a", "b", "c"]
    assert await store.last_number(kept.pool, store.OUTCOME) == 3


async def test_days_are_made_ahead_once(kept: Kept) -> None:
    for _ in range(2):
        await kept.days(30).ahead()
    names = await kept.pool.fetch(
        "SELECT relname FROM pg_class WHERE relname IN ('outcomes_20260301', 'outcomes_20260302')"
    )
    assert len(names) == 2


async def test_a_day_goes_when_it_was_kept_long_enough_and_its_ids_with_it(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.feedback.days._CHUNK", 2)
    await kept.intake.outcomes([event(f"old-{n}") for n in range(5)])
    kept.clock.now = MIDNIGHT
    await kept.intake.outcomes([event("young")])
    days = kept.days(7)
    kept.clock.now = MIDNIGHT + timedelta(days=7) - SECOND
    assert await days.discard() == 0
    kept.clock.now = MIDNIGHT + timedelta(days=7)
    assert await days.discard() == 1
    assert await days.discard() == 0
    assert await kept.listed() == ["young"]
    assert await kept.pool.fetchval("SELECT array_agg(id) FROM outcome_ids") == ["young"]
    assert await kept.pool.fetchval("SELECT to_regclass('outcomes_20260301')") is None
    assert await kept.intake.outcomes([event("old-1"), event("young")]) == [Fate.STORED, Fate.DUPLICATE]
    assert await store.last_number(kept.pool, store.OUTCOME) == 7


async def test_signals_go_when_outcomes_of_their_day_would(kept: Kept) -> None:
    def signal(name: str, days_ago: int) -> Signal:
        made = Signal(signal_id=name, kind=1, source="eta", subject="s", severity=1, active=True)
        made.timestamp.FromDatetime(MIDNIGHT - timedelta(days=days_ago))
        return made

    kept.clock.now = MIDNIGHT + SECOND
    await kept.intake.signals([signal("old", 31), signal("kept", 30), signal("older", 40)])
    assert await kept.days(30).forget_signals() == 2
    assert [row["id"] for row in await kept.pool.fetch("SELECT id FROM signals")] == ["kept"]
    assert await kept.days(30).forget_signals() == 0


async def test_a_day_whose_discarding_was_cut_off_goes_with_the_next(kept: Kept) -> None:
    await kept.intake.outcomes([event("a"), event("b")])
    await kept.pool.execute("ALTER TABLE outcomes DETACH PARTITION outcomes_20260301 CONCURRENTLY")
    await kept.pool.execute("DELETE FROM outcome_ids WHERE id = 'a'")
    kept.clock.now = MIDNIGHT + timedelta(days=30)
    assert await kept.days(7).discard() == 1
    assert await kept.pool.fetchval("SELECT count(*) FROM outcome_ids") == 0


async def test_outcomes_of_before_there_were_days_are_kept(database: str, tmp_path: Path) -> None:
    first = tmp_path / "migrations"
    first.mkdir()
    (first / "0001_feedback.sql").write_text((MIGRATIONS / "0001_feedback.sql").read_text())
    before = await Store.open(database, schema="feedback", migrations=first)
    body = event("a").SerializeToString(deterministic=True)
    async with before.transaction() as connection:
        await connection.execute(
            "INSERT INTO outcomes (number, id, digest, at, agent_name, status, workflow_id, body)"
            " VALUES (1, 'a', sha256($1), to_timestamp(1700000000), 'agent', 1, '', $1)",
            body,
        )
        await connection.execute("UPDATE heads SET last = 1 WHERE kind = 'outcome'")
    await before.close()
    after = await Store.open(database, schema="feedback", migrations=MIGRATIONS)
    bus = create_bus(
        FeedbackSettings(port=0, admin=0, data_dir=tmp_path, database_url=None),
        service="feedback",
        pool=after.pool,
    )
    await bus.start()
    intake = Intake(after, bus)
    assert await intake.outcomes([event("a"), event("b")]) == [Fate.DUPLICATE, Fate.STORED]
    assert await intake.outcomes([event("a", at=6)]) == [Fate.CONFLICT]
    found, _ = await store.outcomes_after(after.pool, 0, Filter(), 10)
    assert (found[0].number, found[0].body) == (1, body)
    await intake.close()
    await bus.close()
    await after.close()


async def test_writers_and_a_discarding_process_beside_each_other(kept: Kept, database: str) -> None:
    """Another process holds the right to discard: nothing is done twice."""
    await kept.intake.outcomes([event("a")])
    kept.clock.now = MIDNIGHT + timedelta(days=30)
    other = await connect(database)
    try:
        await other.execute("SELECT pg_advisory_lock(hashtext('feedback.outcomes'), 1)")
        assert await kept.days(7).discard() == 0
    finally:
        await other.close()
    assert await kept.days(7).discard() == 1


async def test_fields_of_a_version_that_is_not_known_are_not_kept(kept: Kept) -> None:
    from_the_future = event("a").SerializeToString() + b"\x9a\x06\x10password=hunter2"  # field 99
    assert b"hunter2" in OutcomeEvent.FromString(from_the_future).SerializeToString()
    async with kept.pool.acquire() as connection:
        await kept.intake.outcomes_from_topic(connection, [OutcomeEvent.FromString(from_the_future)])
    await kept.intake.outcomes([OutcomeEvent.FromString(from_the_future.replace(b"\x01a", b"\x01b"))])
    bodies = await kept.pool.fetch("SELECT body FROM outcomes")
    assert len(bodies) == 2
    assert not any(b"hunter2" in row["body"] for row in bodies)
