"""A look at what lies in a cluster, without a trace in it: records, ends, where groups stand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

_LOOK_S: Final = 60.0
_POLL_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Lying:
    """A record as it lies in the cluster."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp_ms: int


class Look:
    """By the options of aiokafka's clients, `bootstrap_servers` at least. A look takes a minute at most."""

    def __init__(self, **connection: Any) -> None:
        self._connection = connection

    async def ends(self, topic: str) -> dict[int, int]:
        """Where each partition of a topic ends; empty if there is no such topic."""
        async with asyncio.timeout(_LOOK_S), self._reading() as consumer:
            return {one.partition: end for one, end in (await self._ends(consumer, topic)).items()}

    async def records(self, topic: str) -> list[Lying]:
        """All that lies there now, partition by partition."""
        found: list[Lying] = []
        async with asyncio.timeout(_LOOK_S), self._reading() as consumer:
            ends = await self._ends(consumer, topic)
            if not ends:
                return found
            consumer.assign(list(ends))
            await consumer.seek_to_beginning()
            while [one for one, end in ends.items() if await consumer.position(one) < end]:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                for raw in (raw for batch in fetched.values() for raw in batch):
                    headers = dict(raw.headers)
                    found.append(Lying(raw.partition, raw.offset, raw.key, raw.value, headers, raw.timestamp))
        return sorted(found, key=lambda one: (one.partition, one.offset))

    async def keys(self, topic: str) -> list[str]:
        """The keys of all records."""
        return [(one.key or b"").decode() for one in await self.records(topic)]

    async def committed(self, group: str, topic: str) -> dict[int, int]:
        """Where a group has told the cluster that it stands, for the partitions where it has."""
        async with asyncio.timeout(_LOOK_S), self._reading(group) as consumer:
            told = {one: await consumer.committed(one) for one in await self._partitions(topic)}
            return {one.partition: offset for one, offset in told.items() if offset is not None}

    async def _ends(self, consumer: AIOKafkaConsumer, topic: str) -> dict[TopicPartition, int]:
        partitions = await self._partitions(topic)
        if not partitions:
            return {}
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return ends

    async def _partitions(self, topic: str) -> list[TopicPartition]:
        """By asking for all topics: to be asked for one by its name makes some clusters create it."""
        admin = AIOKafkaAdminClient(**self._connection)
        try:
            await admin.start()
            for found in await admin.describe_topics():
                if found["topic"] == topic:
                    return sorted(TopicPartition(topic, one["partition"]) for one in found["partitions"])
            return []
        finally:
            await admin.close()

    @asynccontextmanager
    async def _reading(self, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(**self._connection, group_id=group, enable_auto_commit=False)
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()
