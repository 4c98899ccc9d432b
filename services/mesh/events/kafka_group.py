"""A member of a group of readers on Kafka. Where the group stands is kept beside the handler's effects."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import asyncpg
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from services.mesh.events.bus import Record
from services.mesh.events.handling import FencedError, Handling, Patience
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import Meter

_log = logging.getLogger(__name__)

_POLL_MS: Final = 200
_COMMIT_S: Final = 1.0
_METER_S: Final = 1.0
_STOP_S: Final = 5.0
_RESTART_S: Final = (0.1, 5.0)

_STORED: Final = "SELECT next FROM bus.kafka_offsets WHERE group_name = $1 AND topic = $2 AND partition = $3"
_FIRST: Final = """
INSERT INTO bus.kafka_offsets (group_name, topic, partition, next) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING true
"""
_ADVANCE: Final = """
UPDATE bus.kafka_offsets SET next = $4
WHERE group_name = $1 AND topic = $2 AND partition = $3 AND next = $5 RETURNING true
"""

Raw: TypeAlias = "ConsumerRecord[bytes, bytes]"


@dataclass(slots=True, eq=False)
class Place:
    """Where the group stands in a partition."""

    patience: Patience
    next: int | None = None
    """Offset of the next record to handle; None before the first."""
    first: int = 0
    """Offset where reading began, for as long as there is no next."""
    known: bool = False
    """Whether `next` is what the store says."""
    paused: bool = False


class KafkaGroupConsumer:
    """Reads until cancelled; joins again after whatever ends its session."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        options: KafkaOptions,
        group: str,
        topics: list[str],
        handling: Handling,
        max_batch: int,
        meter: Meter,
        watch: KafkaWatch,
        unless_from: str = "",
    ) -> None:
        if max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        self._pool = pool
        self._options = options
        self._group = group
        self._topics = topics
        self._handling = handling
        self._max_batch = max_batch
        self._meter = meter
        self._watch = watch
        self._trouble = f"group {group} cannot read"
        self._unwanted = ("ce_source", unless_from.encode()) if unless_from else None
        self._metered_at = 0.0
        self._places: dict[TopicPartition, Place] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._commit_at = 0.0
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Reads until cancelled; then leaves the group."""
        pause_s = _RESTART_S[0]
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except Exception as error:
                if isinstance(error, KafkaError | TimeoutError):
                    self._watch.failed(self._trouble, error)
                else:
                    _log.warning("group %s joins again", self._group, exc_info=error)
            lasted = time.monotonic() - began > _RESTART_S[1]
            pause_s = _RESTART_S[0] if lasted else min(pause_s * 2, _RESTART_S[1])
            await asyncio.sleep(pause_s)

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Events not yet handled, by (topic, partition), as of the last fetch of each."""
        found = {}
        consumer = self._consumer
        for partition, place in self._places.items():
            high = consumer.highwater(partition) if consumer is not None else None
            if high is not None and place.known:
                name = self._options.name_here(partition.topic)
                begin = place.first if place.next is None else place.next
                found[name, partition.partition] = max(0, high - begin)
        return found

    async def _session(self) -> None:
        """From joining to leaving the group."""
        consumer = AIOKafkaConsumer(**self._options.consumer(self._group))
        self._places.clear()
        names = [self._options.name_in_cluster(topic) for topic in self._topics]
        consumer.subscribe(topics=names, listener=_Forget(self._places))
        try:
            await consumer.start()
            self._consumer = consumer
            while True:
                self._resume(consumer)
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                for partition, raw in fetched.items():
                    await self._take(consumer, partition, raw)
                self._watch.worked(self._trouble)
                await self._commit(consumer)
                self._tell_lag()
        finally:
            self._consumer = None
            with contextlib.suppress(Exception):
                await asyncio.wait_for(consumer.stop(), _STOP_S)

    async def _take(self, consumer: AIOKafkaConsumer, partition: TopicPartition, raw: Sequence[Raw]) -> None:
        place = self._places.setdefault(partition, Place(Patience(self._max_batch)))
        if not place.known:
            place.next = await self._stored(partition)
            place.known, place.first = True, raw[0].offset
            if place.next is not None and place.next != raw[0].offset:
                # What Kafka was told may be behind what we did, or ahead of a store restored from a backup.
                consumer.seek(partition, place.next)
                return
        if place.next is not None and raw[0].offset < place.next:
            await self._begin_anew(partition, place, raw[0].offset)
            if not place.known:
                return
        after = place.next
        fresh = [one for one in raw if after is None or one.offset >= after]
        # Told by the header alone, before anything is decoded.
        records = [self._options.to_record(one) for one in fresh if self._unwanted not in one.headers]
        while records and self._places.get(partition) is place:  # else it was revoked meanwhile
            batch, records = records[: place.patience.limit], records[place.patience.limit :]
            try:
                handled = await self._handle(partition, place, batch)
            except FencedError:
                _log.warning("group %s lost %s", self._group, partition)
                place.known = False
                return
            if not handled:
                place.known = False  # the commit may have happened although we saw it fail
                if self._places.get(partition) is place:
                    consumer.seek(partition, batch[0].position)
                    consumer.pause(partition)
                    place.paused = True
                return
        if self._unwanted is not None and fresh:
            await self._pass(partition, place, fresh[-1].offset + 1)

    async def _begin_anew(self, partition: TopicPartition, place: Place, first: int) -> None:
        """Reading was to go on at `next`, and begins before: this is another log under the same name."""
        _log.warning(
            "%s/%d ends before %d, where group %s stands: the topic was made anew, it is read from %d on",
            partition.topic, partition.partition, place.next, self._group, first,
        )  # fmt: skip
        key = (self._group, self._options.name_here(partition.topic), partition.partition)
        if await self._pool.fetchval(_ADVANCE, *key, first, place.next) is None:
            place.known = False
        else:
            place.next = place.first = first

    async def _pass(self, partition: TopicPartition, place: Place, end: int) -> None:
        """Moves on over what is not wanted behind the last record that was."""
        if self._places.get(partition) is not place or place.next == end:
            return
        key = (self._group, self._options.name_here(partition.topic), partition.partition)
        statement, rest = (_FIRST, (end,)) if place.next is None else (_ADVANCE, (end, place.next))
        if await self._pool.fetchval(statement, *key, *rest) is None:
            _log.warning("group %s lost %s", self._group, partition)
            place.known = False
            return
        place.next = end

    async def _handle(self, partition: TopicPartition, place: Place, batch: list[Record]) -> bool:
        key = (self._group, batch[0].topic, partition.partition)
        after, end = place.next, batch[-1].position + 1

        async def advance(connection: asyncpg.Connection) -> bool:
            if after is None:
                return await connection.fetchval(_FIRST, *key, end) is not None
            return await connection.fetchval(_ADVANCE, *key, end, after) is not None

        if not await self._handling.handle(batch, place.patience, advance):
            return False
        place.next = end
        return True

    async def _stored(self, partition: TopicPartition) -> int | None:
        name = self._options.name_here(partition.topic)
        stored: int | None = await self._pool.fetchval(_STORED, self._group, name, partition.partition)
        return stored

    def _resume(self, consumer: AIOKafkaConsumer) -> None:
        now = time.monotonic()
        for partition, place in self._places.items():
            if place.paused and place.patience.retry_at <= now:
                consumer.resume(partition)
                place.paused = False

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        """Tells Kafka where we stand: for others to see, and for the start where our store has nothing."""
        if time.monotonic() < self._commit_at:
            return
        self._commit_at = time.monotonic() + _COMMIT_S
        offsets = {one: place.next for one, place in self._places.items() if place.known and place.next}
        if offsets:
            with contextlib.suppress(KafkaError):  # a rebalance is under way; the store knows better anyhow
                await consumer.commit(offsets)

    def _tell_lag(self) -> None:
        if time.monotonic() > self._metered_at + _METER_S:
            self._metered_at = time.monotonic()
            for (topic, partition), events in self.lag().items():
                self._meter.lag(topic, partition, events)


class _Forget(ConsumerRebalanceListener):  # type: ignore[misc]
    """Forgets partitions that come or go: their places are read from the store again."""

    def __init__(self, places: dict[TopicPartition, Place]) -> None:
        self._places = places

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        for partition in revoked:
            self._places.pop(partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for partition in assigned:
            self._places.pop(partition, None)
