"""What the embedded event bus does by its own means: waking, leases, fences, retention, and after kills."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest

from services.mesh.events import Message, Record, Topic, postgres_link
from services.mesh.events.postgres import PostgresBus
from services.mesh.events.postgres_retention import Retention
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.store import EmbeddedPostgres, connect
from services.mesh.store.failures import is_transient
from tests.contract.events_rig import GUARD_S, PostgresRig, Process, Seen, message, postgres_rig, settled
from tests.processes import until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def rig(database: str) -> AsyncIterator[PostgresRig]:
    async with postgres_rig(database) as made:
        yield made


async def never(*_: object, **__: object) -> None:
    """Does nothing."""


async def test_positions_are_dense_and_follow_the_commits(rig: PostgresRig) -> None:
    one = await rig.bus()

    async def publish(worker: int) -> None:
        for turn in range(20):
            async with one.pool.acquire() as connection:
                transaction = connection.transaction()
                await transaction.start()
                await one.bus.publish(connection, [message(f"{worker}.{n}") for n in range(8)])
                await (transaction.rollback() if (turn + worker) % 3 == 0 else transaction.commit())

    await asyncio.gather(*(publish(worker) for worker in range(6)))
    rows = await one.pool.fetch(
        "SELECT min(position), max(position), count(*), last"
        " FROM bus.log JOIN bus.heads USING (part) GROUP BY part, last"
    )
    assert len(rows) == 4
    assert all((row["min"], row["max"]) == (1, row["last"]) and row["count"] == row["last"] for row in rows)


async def test_two_publishers_of_the_same_partitions_in_opposite_order_do_not_block_each_other(
    rig: PostgresRig,
) -> None:
    one = await rig.bus()
    messages = [message(f"k{n}") for n in range(100)]
    async with asyncio.timeout(GUARD_S):
        for _ in range(10):
            await asyncio.gather(one.publish(*messages), one.publish(*reversed(messages)))


async def test_a_reader_is_woken_by_a_publish_without_polling(
    rig: PostgresRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await rig.bus()
    seen = Seen()
    consumer = one.bus.consume("g", ["moves"], seen)
    one.start(consumer)
    await one.publish(message("k", "first"))
    await seen.enough(1)
    monkeypatch.setattr(postgres_link, "POLL_S", 3600.0)
    # Once the poll under way has ended, only a notification can wake it.
    polls = one.bus._link._served
    await until(lambda: one.bus._link._served > polls, "the poll under way ends")
    await one.publish(message("k", "second"))
    await seen.enough(2)


async def test_a_reader_that_hears_nothing_finds_events_by_polling(
    rig: PostgresRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_link, "_tell", never)
    one = await rig.bus()
    seen = Seen()
    one.start(one.bus.consume("g", ["moves"], seen))
    one.start(one.bus.broadcast(["moves"], seen))
    await one.publish(message("k", "unheard"))
    await seen.enough(2)


async def test_many_small_publishes_make_few_notifications(
    rig: PostgresRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So long that many publishes fall within it on a slow machine too.
    monkeypatch.setattr(postgres_link, "LINGER_S", 1.0)
    one = await rig.bus()
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    connection = await connect(rig.dsn)
    await connection.add_listener(postgres_link.EVENTS_CHANNEL, hear)
    for n in range(300):
        await one.publish(message(f"k{n}"))
    await until(lambda: heard > 0, "a notification")
    await connection.close()
    assert heard < 150


async def test_a_member_that_was_taken_for_dead_cannot_commit(rig: PostgresRig) -> None:
    one = await rig.bus()
    await one.pool.execute("CREATE TABLE effects (value text)")
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.execute("INSERT INTO effects VALUES ('zombie')")
        inside.set()
        await go_on.wait()

    async def quick(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.execute("INSERT INTO effects VALUES ('heir')")

    await one.publish(message("k"))
    one.start(one.bus.consume("g", ["moves"], slow))
    async with asyncio.timeout(GUARD_S):
        await inside.wait()
    # What the other members' balance does when a member has not been heard of for 15 s.
    await one.pool.execute("DELETE FROM bus.members")
    other = await rig.bus()
    heir = other.bus.consume("g", ["moves"], quick)
    other.start(heir)
    await until(lambda: len(heir.lag()) > 0, "the heir has partitions")
    go_on.set()
    async with asyncio.timeout(GUARD_S):
        while not await one.pool.fetchval("SELECT count(*) FROM effects"):
            await asyncio.sleep(0.01)
    await settled(heir)
    assert [row[0] for row in await one.pool.fetch("SELECT value FROM effects")] == ["heir"]


async def test_three_members_get_fair_shares_and_hold_no_partition_twice(rig: PostgresRig) -> None:
    consumers = []
    for _ in range(3):
        process = await rig.bus()
        consumer = process.bus.consume("g", ["moves", "state"], Seen())
        process.start(consumer)
        consumers.append(consumer)

    def held() -> list[tuple[str, int]]:
        return sorted(place for consumer in consumers for place in consumer.lag())

    everything = sorted([("moves", n) for n in range(4)] + [("state", n) for n in range(2)])
    await until(lambda: held() == everything and min(len(c.lag()) for c in consumers) >= 1, "fair shares")
    assert max(sum(topic == "moves" for topic, _ in consumer.lag()) for consumer in consumers) == 2


MEMBER = """
import asyncio, sys, asyncpg
from services.mesh.events.postgres import PostgresBus
from services.mesh.store import connect
from tests.contract.events_rig import TOPICS
async def main():
    pool = await asyncpg.create_pool(sys.argv[1], min_size=1, max_size=4, connect=connect)
    bus = PostgresBus(pool, service="member", topics=TOPICS)
    await bus.start()
    async def handle(connection, records):
        await connection.executemany(
            "INSERT INTO effects VALUES ($1)", [(r.value.decode(),) for r in records])
        if b"stick" in {r.value for r in records}:
            print("stuck", flush=True)
            await asyncio.Event().wait()
    await bus.consume("g", ["moves"], handle).run()
asyncio.run(main())
"""


async def test_what_a_killed_member_held_goes_on_in_another_process_with_no_effect_twice(
    rig: PostgresRig,
) -> None:
    one = await rig.bus()
    await one.pool.execute("CREATE TABLE effects (value text)")
    member = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEMBER, rig.dsn, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert member.stdout is not None
    await one.publish(*[message(f"k{n}", f"{n}") for n in range(50)])
    await one.publish(message("k1", "stick"))
    try:
        async with asyncio.timeout(GUARD_S):
            assert await member.stdout.readline() == b"stuck\n"
    finally:
        member.kill()
        await member.wait()
    done = Seen()

    async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
        await connection.executemany(
            "INSERT INTO effects VALUES ($1)", [(r.value.decode(),) for r in records]
        )
        await done(records)

    heir = one.bus.consume("g", ["moves"], handle)
    one.start(heir)
    await done.enough(1)
    await until(lambda: len(heir.lag()) == 4, "the heir has all partitions")
    await settled(heir)
    values = [row[0] for row in await one.pool.fetch("SELECT value FROM effects")]
    assert sorted(values) == sorted([*map(str, range(50)), "stick"])


async def test_a_killed_server_loses_nothing_acknowledged_and_repeats_no_effect() -> None:
    folder = Path(tempfile.mkdtemp(prefix="waymesh-bus-", dir="/tmp"))
    server = EmbeddedPostgres(folder)
    rig = PostgresRig(await server.start())
    try:
        one = await rig.bus()
        await one.pool.execute("CREATE TABLE effects (value int)")
        wide = Seen()

        async def handle(connection: asyncpg.Connection, records: list[Record]) -> None:
            await connection.executemany(
                "INSERT INTO effects VALUES ($1)", [(int(r.value),) for r in records]
            )

        one.start(one.bus.consume("g", ["moves"], handle))
        one.start(one.bus.broadcast(["moves"], wide))
        acknowledged = await publish_over_kills(one, server)
        await drained(one.pool, "g")
        rows = [row[0] for row in await one.pool.fetch("SELECT value FROM effects ORDER BY 1")]
        assert len(rows) == len(set(rows))
        assert set(acknowledged) <= set(rows)
        await wide.enough(len(rows))
        assert sorted(map(int, wide.values())) == rows
    finally:
        await rig.close()
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def drained(pool: asyncpg.Pool, group: str) -> None:
    """Until the group has handled everything, by the store's own account."""
    left = """SELECT count(*) FROM bus.offsets o JOIN bus.heads h USING (part)
        WHERE o.group_name = $1 AND o.position < h.last"""
    async with asyncio.timeout(GUARD_S):
        while await pool.fetchval(left, group):
            await asyncio.sleep(0.01)


async def publish_over_kills(one: Process, server: EmbeddedPostgres) -> list[int]:
    """Publishes numbers while the server is killed twice and started again; those that were acknowledged."""
    acknowledged = []
    for n in range(300):
        if n in (100, 200):
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()
            await server.start()
        try:
            await one.publish(message(f"k{n % 7}", str(n)))
            acknowledged.append(n)
        except Exception as error:
            if not is_transient(error):
                raise
    assert len(acknowledged) > 250
    return acknowledged


async def test_what_is_older_than_the_retention_goes_once_every_group_has_read_it(rig: PostgresRig) -> None:
    one = await rig.bus()
    retention = Retention(one.pool)
    seen, late = Seen(), Seen()
    consumer, lagging = one.bus.consume("g", ["brief"], seen), one.bus.consume("late", ["brief"], late)
    joined = one.start(lagging)
    await until(lambda: len(lagging.lag()) == 1, "the lagging group has joined")
    joined.cancel()
    await asyncio.gather(joined, return_exceptions=True)
    await one.publish(*[message("k", f"{n}", topic="brief") for n in range(10)])
    await one.publish(message("k", "kept for days"))
    one.start(consumer)
    await seen.enough(10)
    await settled(consumer)
    assert await retention.once() == 0
    one.start(lagging)
    await late.enough(10)
    await settled(lagging)
    assert await retention.once() == 10
    assert await one.pool.fetchval("SELECT count(*) FROM bus.log") == 1


async def test_a_compacted_topic_keeps_the_newest_of_each_key_and_what_is_unread(rig: PostgresRig) -> None:
    one = await rig.bus()
    retention = Retention(one.pool, least_to_compact=1)
    seen = Seen()
    consumer = one.bus.consume("g", ["state"], seen)
    running = one.start(consumer)
    for turn in range(5):
        await one.publish(*[message(f"k{n}", f"{turn}", topic="state") for n in range(10)])
    await seen.enough(50)
    await settled(consumer)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await one.publish(*[message("k0", "unread", topic="state"), message("k0", "newest", topic="state")])
    assert await retention.once() == 40 + 1  # the last read version of k0 is no longer the newest either
    wide = Seen()
    reader = one.bus.broadcast(["state"], wide)
    one.start(reader)
    async with asyncio.timeout(GUARD_S):
        await reader.caught_up.wait()
    newest = {record.key: record.value.decode() for record in wide.records}
    assert newest == {"k0": "newest", **{f"k{n}": "4" for n in range(1, 10)}}
    assert "unread" in wide.values()


async def test_only_one_process_at_a_time_cleans_up(rig: PostgresRig) -> None:
    one = await rig.bus()
    connection = await connect(rig.dsn)
    await connection.execute("SELECT pg_advisory_lock(hashtext('bus.retention'))")
    await one.publish(message("k", topic="brief"))
    assert await Retention(one.pool).once() == 0
    await connection.close()
    async with asyncio.timeout(GUARD_S):
        while await Retention(one.pool).once() == 0:
            await asyncio.sleep(0.01)


async def test_a_topic_can_get_more_partitions_and_never_fewer(database: str) -> None:
    pool = await asyncpg.create_pool(database, min_size=1, max_size=4, connect=connect)
    names = {DEAD_LETTERS: Topic(DEAD_LETTERS, 1)}
    for partitions, expected in ((2, 2), (5, 5), (3, 5)):
        topics = {**names, "t": Topic("t", partitions, retention=timedelta(hours=1))}
        bus = PostgresBus(pool, service="tests", topics=topics)
        await bus.start()
        assert await pool.fetchval("SELECT count(*) FROM bus.partitions WHERE topic = 't'") == expected
        async with pool.acquire() as connection:
            await bus.publish(
                connection, [Message("t", f"k{n}", b"", f"{partitions}.{n}", "T") for n in range(40)]
            )
        await bus.close()
    assert await pool.fetchval("SELECT count(DISTINCT part) FROM bus.log") == 5
    await pool.close()


async def test_the_bus_reconnects_and_its_members_stay(rig: PostgresRig) -> None:
    one = await rig.bus()
    seen = Seen()
    consumer = one.bus.consume("g", ["moves"], seen)
    one.start(consumer)
    await one.publish(message("k", "before"))
    await seen.enough(1)
    await settled(consumer)
    own = await connect(rig.dsn)
    await own.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid()"
    )
    await own.close()
    async with asyncio.timeout(GUARD_S):
        while True:
            try:
                await one.publish(message("k", "after"))
                break
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.01)
    await seen.enough(2)
    assert seen.values() == ["before", "after"]
