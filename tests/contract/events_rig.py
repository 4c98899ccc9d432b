"""Both adapters of the event bus behind one face for the contract suite."""

import asyncio
import contextlib
import itertools
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient

from services.mesh.events import Consumer, EventBus, Message, Record, Topic
from services.mesh.events.kafka import KafkaBus
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.postgres import PostgresBus
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.store import connect
from tests.kafka_brokers import Kafka
from tests.mock_cluster import MockCluster
from tests.processes import until

TOPICS: Mapping[str, Topic] = {
    topic.name: topic
    for topic in (
        Topic("moves", 4),
        Topic("state", 2, compacted=True, retention=None),
        Topic("lone", 1),
        Topic("brief", 1, retention=timedelta(0)),  # on Kafka gone at any moment
        Topic(DEAD_LETTERS, 1),
    )
}
# Only keeps a broken test from hanging.
GUARD_S = 120.0
_ids = itertools.count(1)


def message(
    key: str, value: str | bytes = b"", *, topic: str = "moves", event_id: str = "", **more: object
) -> Message:
    """A message with an id of its own."""
    data = value.encode() if isinstance(value, str) else value
    return Message(
        topic=topic,
        key=key,
        value=data,
        event_id=event_id or f"event-{next(_ids)}",
        type="waymesh.test.v1.Move",
        **more,  # type: ignore[arg-type]
    )


class Rig(Protocol):
    """One broker; each bus of it stands for a process of its own."""

    dsn: str

    async def bus(self, service: str = "tests") -> "Process":
        """A started bus with a pool of its own."""
        ...

    async def close(self) -> None:
        """Ends all of them."""
        ...


class Process:
    """A bus, its pool and the tasks that run its consumers."""

    def __init__(self, bus: EventBus, pool: asyncpg.Pool) -> None:
        self.bus = bus
        self.pool = pool
        self._tasks: list[asyncio.Task[None]] = []

    async def publish(self, *messages: Message) -> None:
        """In a transaction of their own."""
        async with self.pool.acquire() as connection, connection.transaction():
            await self.bus.publish(connection, messages)

    async def relayed(self) -> None:
        """Waits until readers can see what was published: with Kafka, that it has left the log."""
        if isinstance(self.bus, KafkaBus):
            async with asyncio.timeout(GUARD_S):
                while await self.pool.fetchval("SELECT count(*) FROM bus.log"):
                    await asyncio.sleep(0.01)

    def start(self, consumer: Consumer) -> asyncio.Task[None]:
        """Runs a consumer."""
        task = asyncio.create_task(consumer.run())
        self._tasks.append(task)
        return task

    async def end(self) -> None:
        """Stops in good order."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bus.close()
        await self.pool.close()


class Seen:
    """A handler that keeps what it was given, and waits until it was enough."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.batches: list[list[Record]] = []
        self._more = asyncio.Condition()

    async def __call__(self, *arguments: object) -> None:
        records = arguments[-1]
        assert isinstance(records, list)
        self.batches.append(records)
        self.records.extend(records)
        async with self._more:
            self._more.notify_all()

    async def enough(self, count: int) -> list[Record]:
        """The records, once there are `count`."""
        async with asyncio.timeout(GUARD_S), self._more:
            await self._more.wait_for(lambda: len(self.records) >= count)
        return self.records

    def values(self) -> list[str]:
        """All values as text."""
        return [record.value.decode() for record in self.records]


def by_key(records: Sequence[Record]) -> dict[str, list[str]]:
    """The values of each key in the order of reading."""
    found: dict[str, list[str]] = defaultdict(list)
    for record in records:
        found[record.key].append(record.value.decode())
    return found


async def settled(consumer: Consumer, lag: int = 0) -> None:
    """Waits until a reader has that much still to handle: with 0, all is committed."""
    await until(lambda: bool(consumer.lag()) and sum(consumer.lag().values()) == lag, f"a lag of {lag}")


class PostgresRig:
    """Buses over one database."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._processes: list[Process] = []

    async def bus(self, service: str = "tests") -> Process:
        pool = await asyncpg.create_pool(self.dsn, min_size=1, max_size=8, connect=connect)
        process = Process(PostgresBus(pool, service=service, topics=TOPICS), pool)
        self._processes.append(process)
        await process.bus.start()
        return process

    async def close(self) -> None:
        for process in self._processes:
            await process.end()


@contextlib.asynccontextmanager
async def postgres_rig(dsn: str) -> AsyncIterator[PostgresRig]:
    """The embedded bus."""
    rig = PostgresRig(dsn)
    try:
        yield rig
    finally:
        await rig.close()


class KafkaRig:
    """Buses over one database and one cluster, real or not, where each rig has topics of its own."""

    def __init__(self, dsn: str, options: KafkaOptions) -> None:
        self.dsn = dsn
        self.options = options
        self._processes: list[Process] = []

    async def bus(self, service: str = "tests") -> Process:
        pool = await asyncpg.create_pool(self.dsn, min_size=1, max_size=8, connect=connect)
        process = Process(KafkaBus(pool, self.options, service=service, topics=TOPICS), pool)
        self._processes.append(process)
        await process.bus.start()
        return process

    async def close(self) -> None:
        for process in self._processes:
            await process.end()


@contextlib.asynccontextmanager
async def kafka_rig(dsn: str, kafka: Kafka) -> AsyncIterator[KafkaRig]:
    """A real Kafka, whose topics are there before anybody reads or writes."""
    async with own_topics(kafka.bootstrap_servers) as options:
        rig = KafkaRig(dsn, options)
        try:
            yield rig
        finally:
            await rig.close()


@contextlib.asynccontextmanager
async def own_topics(
    bootstrap_servers: str, topics: Mapping[str, Topic] = TOPICS
) -> AsyncIterator[KafkaOptions]:
    """Options whose topics have names that nobody else has; they are deleted at the end."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    options = KafkaOptions(bootstrap_servers, names={name: f"{prefix}.{name}" for name in topics})
    assert sorted(await create_topics(options, list(topics.values()))) == sorted(topics)
    try:
        yield options
    finally:
        admin = AIOKafkaAdminClient(**options.connection())
        try:
            await admin.start()
            await admin.delete_topics(list(options.names.values()))
        finally:
            await admin.close()


@contextlib.asynccontextmanager
async def mock_rig(dsn: str) -> AsyncIterator[KafkaRig]:
    """Kafka, as far as librdkafka's mock cluster plays it."""
    cluster = MockCluster()
    rig = KafkaRig(dsn, KafkaOptions(cluster.bootstrap_servers))
    try:
        yield rig
    finally:
        await rig.close()
