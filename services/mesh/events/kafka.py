"""EventBus on Kafka: what is published waits in the store's log and is relayed; readers read from Kafka."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

import asyncpg
from aiokafka import AIOKafkaProducer

from services.mesh.events.bus import BroadcastHandler, Handler, Message, Record
from services.mesh.events.dead_letters import dead_letter
from services.mesh.events.handling import Handling
from services.mesh.events.inbox import admit_once, forget
from services.mesh.events.kafka_broadcast import KafkaBroadcastConsumer
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_group import KafkaGroupConsumer
from services.mesh.events.kafka_relay import KafkaRelay, unsent
from services.mesh.events.kafka_sender import KafkaSender
from services.mesh.events.kafka_topics import create_topics
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import Meter, SilentMeter, begin_at_zero, count_published
from services.mesh.events.postgres import MIGRATIONS, SCHEMA
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog, UnknownTopicError
from services.mesh.events.topics import TOPICS, Topic
from services.mesh.outboxes import Waiting
from services.mesh.store.failures import is_transient
from services.mesh.store.migrations import Migrations, migrate

_log = logging.getLogger(__name__)

_BROADCAST_BATCH: Final = 1000
# Twice the same event is read within what lies between two sends of it, which is minutes.
_REMEMBER: Final = timedelta(days=1)
_FORGET_EVERY_S: Final = 600.0


class KafkaBus:
    """Starts and publishes whether or not a broker is there; takes one connection of the pool for itself."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        options: KafkaOptions,
        *,
        service: str,
        topics: Mapping[str, Topic] = TOPICS,
        meter: Meter | None = None,
    ) -> None:
        self._pool = pool
        self._options = options
        self._topics = topics
        self._meter: Meter = meter or SilentMeter()
        self._log = PostgresLog(pool, service)
        self._link = PostgresLink(pool)
        self._sender = KafkaSender(options)
        self._watch = KafkaWatch(options, topics)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Brings the schema up to date and begins to relay. Raises what the store raises.

        RuntimeError if the library for KAFKA_COMPRESSION is not installed.
        """
        # Tells a wrong option now, not in the background.
        await AIOKafkaProducer(**self._options.producer()).stop()
        async with self._pool.acquire() as connection:
            await migrate(connection, SCHEMA, [Migrations("bus", MIGRATIONS)])
        await self._log.create_topics(list(self._topics.values()))
        relay = KafkaRelay(
            self._pool, self._log, self._link, list(self._topics), self._sender, self._meter, self._watch
        )
        self._tasks = [
            asyncio.create_task(self._link.run(), name="bus-link"),
            asyncio.create_task(self._forget(), name="bus-forget"),
            asyncio.create_task(self._watch.run(), name="bus-watch"),
        ]
        await self._link.connected()
        self._tasks.append(asyncio.create_task(relay.run(), name="bus-relay"))

    async def close(self) -> None:
        """Ends the background tasks; what is not relayed yet stays for the next process."""
        tasks, self._tasks = self._tasks, []
        # The relay first: without the link others may take its partitions, while something is under way.
        for some in (tasks[3:], tasks[:3]):
            for task in some:
                task.cancel()
            await asyncio.gather(*some, return_exceptions=True)
        await self._sender.close()

    async def create_topics(self) -> Sequence[str]:
        """Creates the topics that the cluster does not have yet; their names here. Raises KafkaError."""
        return await create_topics(self._options, list(self._topics.values()))

    async def publish(self, conn: asyncpg.Connection, messages: Sequence[Message]) -> None:
        """Publishes in the caller's transaction; call it last before the commit. UnknownTopicError."""
        if not messages:
            return
        self._link.touched(conn, await self._log.append(conn, messages))
        count_published(self._meter, messages)

    def consume(
        self,
        group: str,
        topics: Sequence[str],
        handler: Handler,
        *,
        max_batch: int = 1000,
        unless_from: str = "",
    ) -> KafkaGroupConsumer:
        """A member of a group. UnknownTopicError."""
        self._check(topics)
        begin_at_zero(self._meter, topics)
        handling = Handling(self._pool, group, handler, self.publish, self._meter, admit_once(group))
        return KafkaGroupConsumer(
            self._pool,
            self._options,
            group,
            list(topics),
            handling,
            max_batch,
            self._meter,
            self._watch,
            unless_from,
        )

    def broadcast(
        self, topics: Sequence[str], handler: BroadcastHandler, *, from_start: bool = True
    ) -> KafkaBroadcastConsumer:
        """A reader of all partitions. UnknownTopicError."""
        self._check(topics)
        begin_at_zero(self._meter, topics)
        return KafkaBroadcastConsumer(
            self._options, list(topics), handler, from_start, _BROADCAST_BATCH, self._meter, self._watch
        )

    async def dead_letter(self, conn: asyncpg.Connection, record: Record, reason: str) -> None:
        """Puts a record on `dead-letters` in the caller's transaction."""
        await self.publish(conn, [dead_letter(record, reason)])

    async def unsent(self) -> Waiting:
        """What the log holds for the brokers."""
        return await unsent(self._pool)

    def _check(self, topics: Sequence[str]) -> None:
        for topic in topics:
            if topic not in self._topics:
                raise UnknownTopicError(f"topic {topic!r} does not exist")

    async def _forget(self) -> None:
        while True:
            await asyncio.sleep(_FORGET_EVERY_S)
            try:
                await forget(self._pool, _REMEMBER)
            except Exception as error:
                if not is_transient(error):
                    _log.exception("old event ids could not be deleted; it is tried again")
