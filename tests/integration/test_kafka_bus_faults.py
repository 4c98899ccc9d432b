"""The bus on Kafka while members come and go and brokers are killed: nothing lost, nothing seen twice."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest

from services.mesh.events import Record
from tests.contract.events_rig import KafkaRig, Process, Seen, kafka_rig, message
from tests.kafka_brokers import Kafka
from tests.processes import until
from tools.kafka.cluster import KafkaCluster

GUARD_S = 120.0


@pytest.fixture
async def rig(database: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    """Three brokers that stay."""
    async with kafka_rig(database, kafka) as made:
        yield made


@pytest.fixture
async def frail(database: str, kafka_cluster: KafkaCluster) -> AsyncIterator[KafkaRig]:
    """Three brokers that the test may end."""
    async with kafka_rig(database, Kafka(kafka_cluster.bootstrap_servers)) as made:
        yield made


class Effects:
    """A handler that keeps each value in the store and publishes it on; in one transaction."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.handled = 0

    async def __call__(self, connection: asyncpg.Connection, records: list[Record]) -> None:
        values = [record.value.decode() for record in records]
        await connection.executemany("INSERT INTO effects VALUES ($1)", [(value,) for value in values])
        onward = [message(record.key, record.value, topic="state") for record in records]
        await self._process.bus.publish(connection, onward)
        self.handled += len(records)


class Stream:
    """Publishes numbers until it is told to end."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._task = asyncio.create_task(self._run())
        self._ending = False
        self.sent = 0
        self.slowest_s = 0.0

    async def _run(self) -> None:
        while not self._ending:
            batch = [message(f"k{n % 16}", f"{n}") for n in range(self.sent, self.sent + 20)]
            began = time.perf_counter()
            await self._process.publish(*batch)
            self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
            self.sent += 20
            await asyncio.sleep(0.005)

    async def end(self) -> int:
        """How many there are. Raises what publishing raised."""
        self._ending = True
        await self._task
        return self.sent


async def kept(process: Process) -> Counter[int]:
    """How often each number has had its effect."""
    return Counter(int(row[0]) for row in await process.pool.fetch("SELECT value FROM effects"))


async def all_once(process: Process, onward: Seen, sent: int) -> None:
    """Waits until all are through, and looks that each was so once."""
    count = "SELECT count(*) FROM effects"
    async with asyncio.timeout(GUARD_S):
        while await process.pool.fetchval(count) < sent:
            await asyncio.sleep(0.05)
    await until(lambda: len(onward.records) >= sent, "all are published on", guard_s=GUARD_S)
    once = Counter(range(sent))
    assert await kept(process) == once
    assert Counter(map(int, onward.values())) == once


async def test_members_that_come_and_go_lose_nothing_and_repeat_nothing_visible(rig: KafkaRig) -> None:
    source = await rig.bus()
    await source.pool.execute("CREATE TABLE effects (value text)")
    onward = Seen()
    source.start(source.bus.broadcast(["state"], onward))
    stream = Stream(source)
    processes = [await rig.bus() for _ in range(2)]

    def join(process: Process) -> tuple[Effects, asyncio.Task[None]]:
        effects = Effects(process)
        return effects, process.start(process.bus.consume("g", ["moves"], effects, max_batch=20))

    staying, leaving = join(processes[0]), join(processes[1])
    for turn in range(3):
        before = staying[0].handled, leaving[0].handled
        await until(
            lambda b=before, s=staying, g=leaving: s[0].handled > b[0] and g[0].handled > b[1],  # type: ignore[misc]
            "both have partitions",
            guard_s=GUARD_S,
        )
        leaving[1].cancel()
        await asyncio.gather(leaving[1], return_exceptions=True)
        staying, leaving = staying, join(processes[1])
        if turn == 1:  # the one that stayed so far goes as well
            staying, leaving = leaving, staying
    await all_once(source, onward, await stream.end())


async def test_a_leader_killed_in_the_middle_of_the_stream_loses_and_doubles_nothing(
    frail: KafkaRig, kafka_cluster: KafkaCluster
) -> None:
    source, reader = await frail.bus(), await frail.bus()
    await source.pool.execute("CREATE TABLE effects (value text)")
    onward = Seen()
    source.start(source.bus.broadcast(["state"], onward))
    effects = Effects(reader)
    reader.start(reader.bus.consume("g", ["moves"], effects))
    stream = Stream(source)
    await until(lambda: effects.handled > 0, "the stream runs", guard_s=GUARD_S)
    leader = await kafka_cluster.leader_of(frail.options.name_in_cluster("moves"), 0)
    await kafka_cluster.kill(leader)
    before = stream.sent
    await until(lambda: effects.handled > before, "the stream goes on", guard_s=GUARD_S)
    await kafka_cluster.start(leader)
    await all_once(source, onward, await stream.end())


async def test_while_all_brokers_are_away_callers_notice_nothing_and_the_backlog_drains_afterwards(
    frail: KafkaRig, kafka_cluster: KafkaCluster
) -> None:
    source = await frail.bus()
    await source.pool.execute("CREATE TABLE effects (value text)")
    seen, onward = Seen(), Seen()
    source.start(source.bus.consume("watchers", ["moves"], seen))
    source.start(source.bus.broadcast(["state"], onward))
    effects = Effects(source)
    source.start(source.bus.consume("g", ["moves"], effects))
    await source.publish(*[message(f"k{n % 16}", f"{n}") for n in range(1000)])
    await until(lambda: effects.handled >= 1000, "the stream runs", guard_s=GUARD_S)
    await kafka_cluster.kill()
    backlog = 20_000
    for start in range(1000, 1000 + backlog, 1000):
        await source.publish(*[message(f"k{n % 16}", f"{n}") for n in range(start, start + 1000)])
    waiting = await source.pool.fetchval("SELECT count(*) FROM bus.log")
    assert waiting >= backlog
    await kafka_cluster.start()
    began = time.perf_counter()
    await source.relayed()
    print(f"backlog of {waiting} relayed in {time.perf_counter() - began:.2f} s")
    await all_once(source, onward, 1000 + backlog)
    print(f"and handled in {time.perf_counter() - began:.2f} s")
    assert Counter(map(int, seen.values())) == Counter(range(1000 + backlog))


async def test_a_reader_keeps_its_place_while_the_brokers_are_restarted(
    frail: KafkaRig, kafka_cluster: KafkaCluster
) -> None:
    source = await frail.bus()
    seen = Seen()
    reader = source.bus.consume("g", ["moves"], seen)
    source.start(reader)
    await source.publish(*[message(f"k{n}", f"{n}") for n in range(100)])
    await seen.enough(100)
    await kafka_cluster.stop()
    await kafka_cluster.start()
    await source.publish(*[message(f"k{n}", f"{n}") for n in range(100, 200)])
    await until(lambda: len(seen.records) >= 200, "the rest is read", guard_s=GUARD_S)
    assert Counter(map(int, seen.values())) == Counter(range(200))
