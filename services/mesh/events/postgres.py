"""The embedded event bus: a log in PostgreSQL, reached through the same pool as the service's store."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import asyncpg

from services.mesh.events.bus import BroadcastHandler, Handler, Message, Record
from services.mesh.events.dead_letters import dead_letter
from services.mesh.events.handling import Handling
from services.mesh.events.metering import Meter, SilentMeter, begin_at_zero, count_published
from services.mesh.events.postgres_broadcast import BroadcastConsumer
from services.mesh.events.postgres_group import GroupConsumer
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_retention import Retention
from services.mesh.events.topics import TOPICS, Topic
from services.mesh.outboxes import Waiting
from services.mesh.store.migrations import Migrations, migrate

_log = logging.getLogger(__name__)

SCHEMA: Final = "bus"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BROADCAST_BATCH: Final = 1000


class PostgresBus:
    """EventBus on PostgreSQL. Takes one connection of the pool for itself while it runs."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        *,
        service: str,
        topics: Mapping[str, Topic] = TOPICS,
        meter: Meter | None = None,
    ) -> None:
        self._pool = pool
        self._topics = topics
        self._meter: Meter = meter or SilentMeter()
        self._log = PostgresLog(pool, service)
        self._link = PostgresLink(pool)
        self._retention = Retention(pool)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Brings schema and topics up to date and begins to listen. Raises what the store raises."""
        async with self._pool.acquire() as connection:
            await migrate(connection, SCHEMA, [Migrations("bus", MIGRATIONS)])
        await self.create_topics()
        self._tasks = [
            asyncio.create_task(self._link.run(), name="bus-link"),
            asyncio.create_task(self._retention.run(), name="bus-retention"),
        ]
        await self._link.connected()

    async def close(self) -> None:
        """Ends the background tasks; the pool stays open."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def create_topics(self) -> Sequence[str]:
        """Creates the topics that do not exist yet; their names."""
        return await self._log.create_topics(list(self._topics.values()))

    async def publish(self, conn: asyncpg.Connection, messages: Sequence[Message]) -> None:
        """Publishes in the caller's transaction; call it last before the commit. UnknownTopicError."""
        if not messages:
            return
        parts = await self._log.append(conn, messages)
        self._link.touched(conn, parts)
        count_published(self._meter, messages)

    def consume(
        self,
        group: str,
        topics: Sequence[str],
        handler: Handler,
        *,
        max_batch: int = 1000,
        unless_from: str = "",
    ) -> GroupConsumer:
        """A member of a group. UnknownTopicError."""
        begin_at_zero(self._meter, topics)
        handling = Handling(self._pool, group, handler, self.publish, self._meter)
        return GroupConsumer(
            self._pool,
            self._log,
            self._link,
            group,
            list(topics),
            handling,
            max_batch,
            self._meter,
            unless_from,
        )

    def broadcast(
        self, topics: Sequence[str], handler: BroadcastHandler, *, from_start: bool = True
    ) -> BroadcastConsumer:
        """A reader of all partitions. UnknownTopicError."""
        begin_at_zero(self._meter, topics)
        return BroadcastConsumer(
            self._log, self._link, list(topics), handler, from_start, _BROADCAST_BATCH, self._meter
        )

    async def dead_letter(self, conn: asyncpg.Connection, record: Record, reason: str) -> None:
        """Puts a record on `dead-letters` in the caller's transaction."""
        await self.publish(conn, [dead_letter(record, reason)])

    async def unsent(self) -> Waiting:
        """Nothing: the log's row is the event."""
        return Waiting(0)
