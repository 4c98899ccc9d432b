"""The relay's partitions: each waits for its own brokers, and none is sent twice at a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import asyncpg
import pytest

from services.mesh.events import Record
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_relay import KafkaRelay, unsent
from services.mesh.events.kafka_sender import KafkaSender
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import SilentMeter
from services.mesh.events.postgres import PostgresBus
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch
from services.mesh.store import connect
from tests.contract.events_rig import TOPICS, Process, message

GUARD_S = 120.0
NOWHERE = KafkaOptions("127.0.0.1:1")


class Brokers(KafkaSender):
    """Takes events at once, but those of one key only when told to."""

    def __init__(self, taken: list[Record] | None = None) -> None:
        super().__init__(NOWHERE)
        self.taken: list[Record] = [] if taken is None else taken
        self.refusing = 0
        self.holding = False
        self.open = asyncio.Event()
        self._under_way: set[tuple[str, int]] = set()

    async def send(
        self, records: Sequence[Record], acknowledged: set[int], late: Callable[[], None] | None = None
    ) -> None:
        partition = records[0].topic, records[0].partition
        assert partition not in self._under_way
        self._under_way.add(partition)
        try:
            if any(record.key == "held" for record in records):
                self.holding = True
                await self.open.wait()
            if self.refusing:
                self.refusing -= 1
                raise TimeoutError
            self.taken += records
        finally:
            self._under_way.discard(partition)

    async def has(self, *values: str) -> None:
        async with asyncio.timeout(GUARD_S):
            while not set(values) <= {record.value.decode() for record in self.taken}:
                await asyncio.sleep(0.01)


@pytest.fixture
async def process(database: str) -> AsyncIterator[Process]:
    """Publishes to the log; nobody reads it but the relay of the test."""
    pool = await asyncpg.create_pool(database, min_size=1, max_size=8, connect=connect)
    process = Process(PostgresBus(pool, service="tests", topics=TOPICS), pool)
    await process.bus.start()
    yield process
    await process.end()


@contextlib.asynccontextmanager
async def relaying(process: Process, brokers: Brokers) -> AsyncIterator[None]:
    """A relay to these brokers until the end of the block."""
    log, link = PostgresLog(process.pool, "tests"), PostgresLink(process.pool)
    await log.load()
    watch = KafkaWatch(NOWHERE, {})
    relay = KafkaRelay(process.pool, log, link, list(TOPICS), brokers, SilentMeter(), watch)
    tasks = [asyncio.create_task(link.run())]
    await link.connected()
    tasks.append(asyncio.create_task(relay.run()))
    try:
        yield
    finally:
        for task in reversed(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def brokers(process: Process) -> AsyncIterator[Brokers]:
    """And a relay to them."""
    brokers = Brokers()
    async with relaying(process, brokers):
        yield brokers


async def gone(process: Process) -> None:
    """Until the log is empty."""
    async with asyncio.timeout(GUARD_S):
        while await left(process):
            await asyncio.sleep(0.01)


async def left(process: Process) -> list[str]:
    rows = await process.pool.fetch("SELECT value FROM bus.log ORDER BY part, position")
    return [row["value"].decode() for row in rows]


async def test_a_partition_whose_brokers_are_away_holds_up_no_other(
    process: Process, brokers: Brokers
) -> None:
    await process.publish(message("held", "1"), message("k1", "2", topic="state"))
    await brokers.has("2")
    for number in range(3, 40):
        await process.publish(message("held", f"{number}"), message("k1", f"{number}s", topic="state"))
    await brokers.has("39s")
    assert not any(record.key == "held" for record in brokers.taken)
    brokers.open.set()
    await brokers.has("39")
    await gone(process)
    assert [record.value.decode() for record in brokers.taken if record.key == "held"] == [
        "1",
        *(f"{number}" for number in range(3, 40)),
    ]


async def test_while_one_partition_waits_the_others_do_not_look_at_the_balance_each_time(
    process: Process, brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = KafkaRelay._balance

    async def counted(self: KafkaRelay) -> None:
        nonlocal looks
        looks += 1
        await look(self)

    monkeypatch.setattr(KafkaRelay, "_balance", counted)
    await process.publish(message("held", "0"), message("k1", "0s", topic="state"))
    await brokers.has("0s")
    async with relaying(process, Brokers(brokers.taken)):  # which makes the first one look while it waits
        async with asyncio.timeout(GUARD_S):
            while await process.pool.fetchval("SELECT count(DISTINCT owner) FROM bus.offsets") < 2:
                await asyncio.sleep(0.01)
    before = looks
    for number in range(40):
        await process.publish(message("k1", f"{number}s", topic="state"))
        await brokers.has(f"{number}s")
    assert looks - before < 10
    brokers.open.set()
    await gone(process)


async def test_what_was_refused_late_is_sent_again(process: Process, brokers: Brokers) -> None:
    await process.publish(message("held", "1"), message("k1", "2", topic="state"))
    await brokers.has("2")
    await process.publish(message("k1", "3", topic="state"))
    await brokers.has("3")  # the turn of the held one is over
    brokers.refusing = 2
    brokers.open.set()
    await brokers.has("1")
    await gone(process)


async def test_a_relay_that_ends_leaves_what_is_under_way_to_the_next(
    process: Process, brokers: Brokers
) -> None:
    await process.publish(message("held", "1"), message("k1", "2", topic="state"))
    await brokers.has("2")
    async with asyncio.timeout(GUARD_S):
        while await left(process) != ["1"]:
            await asyncio.sleep(0.01)


async def test_a_partition_is_not_given_away_while_something_of_it_is_under_way(
    process: Process, brokers: Brokers
) -> None:
    async def asked(question: str, enough: int) -> None:
        async with asyncio.timeout(GUARD_S):
            while await process.pool.fetchval(question) < enough:
                await asyncio.sleep(0.01)

    await process.publish(message("held", "0"), message("k1", "first", topic="state"))
    await brokers.has("first")
    others = [Brokers(brokers.taken) for _ in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for number, other in enumerate(others):
            other.open.set()
            await stack.enter_async_context(relaying(process, other))
            await asked("SELECT count(*) FROM bus.members", number + 2)
            await process.publish(message("held", f"{number + 1}"))
            await process.publish(message("k1", f"{number} too", topic="state"))
            await brokers.has(f"{number} too")
        assert not any(record.key == "held" for record in brokers.taken)
        brokers.open.set()
        await gone(process)
        # Then they share.
        await asked("SELECT count(DISTINCT owner) FROM bus.offsets", 4)
    assert [record.value for record in brokers.taken if record.key == "held"] == [b"0", b"1", b"2", b"3"]


async def test_a_relay_rests_while_its_brokers_are_away(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns, polls = 0, 0
    enough = asyncio.Event()
    turn, poll = KafkaRelay._next, KafkaRelay.heads_known

    async def counted_turn(self: KafkaRelay, timeout_s: float) -> list[Batch]:
        nonlocal turns
        turns += 1
        return await turn(self, timeout_s)

    def counted_poll(self: KafkaRelay, heads: Mapping[int, int]) -> None:
        nonlocal polls
        polls += 1
        poll(self, heads)
        if polls >= 20:
            enough.set()

    monkeypatch.setattr(KafkaRelay, "_next", counted_turn)
    monkeypatch.setattr(KafkaRelay, "heads_known", counted_poll)
    async with relaying(process, Brokers()):
        await process.publish(message("held", "1"))
        async with asyncio.timeout(GUARD_S):
            await enough.wait()
    assert turns <= 4 * polls


async def test_what_another_had_is_taken_over_while_something_is_under_way(process: Process) -> None:
    """Whichever of the two has the partition that is held: the other one ends."""
    brokers = Brokers()
    other = Brokers(brokers.taken)
    async with contextlib.AsyncExitStack() as first, contextlib.AsyncExitStack() as second:
        await first.enter_async_context(relaying(process, brokers))
        await second.enter_async_context(relaying(process, other))
        async with asyncio.timeout(GUARD_S):
            while await process.pool.fetchval("SELECT count(DISTINCT owner) FROM bus.offsets") < 2:
                await asyncio.sleep(0.01)
            await process.publish(message("held", "held"))
            while not (brokers.holding or other.holding):
                await asyncio.sleep(0.01)
        await (second if brokers.holding else first).aclose()
        for number in range(40):  # some of them in each partition
            await process.publish(message(f"k{number}", f"{number}"))
        held = await process.pool.fetchval("SELECT part FROM bus.log WHERE key = 'held'")
        async with asyncio.timeout(GUARD_S):
            while await process.pool.fetchval("SELECT count(*) FROM bus.log WHERE part <> $1", held):
                await asyncio.sleep(0.01)
        brokers.open.set()
        other.open.set()
        await gone(process)
    assert sorted(record.value.decode() for record in brokers.taken) == sorted(["held", *map(str, range(40))])


async def test_a_relay_that_ends_waits_a_moment_for_what_is_under_way(process: Process) -> None:
    brokers = Brokers()
    async with relaying(process, brokers):
        await process.publish(message("held", "1"))
        async with asyncio.timeout(GUARD_S):
            while not brokers.holding:
                await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.05, brokers.open.set)
    assert [record.value for record in brokers.taken] == [b"1"]
    assert await left(process) == []


async def test_what_waits_for_the_brokers_is_counted_with_the_age_of_the_oldest(process: Process) -> None:
    brokers = Brokers()
    async with relaying(process, brokers):
        await process.publish(message("one", "first"))
        await brokers.has("first")
    oldest = message("one", "second")
    await process.publish(oldest, message("other", "third"))
    aged = "UPDATE bus.log SET time = time - interval '90 seconds' WHERE event_id = $1"
    await process.pool.execute(aged, oldest.event_id)
    waiting = await unsent(process.pool)
    assert waiting.events == 2
    assert waiting.oldest_age_s >= 90
    async with relaying(process, brokers):
        async with asyncio.timeout(GUARD_S):
            while (await unsent(process.pool)).events:
                await asyncio.sleep(0.01)
    assert (await unsent(process.pool)).oldest_age_s == 0
