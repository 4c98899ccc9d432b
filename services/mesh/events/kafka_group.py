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
from services.mesh.events.kafka_client import KafkaOptions, unless_cut_off
from services.mesh.events.kafka_mark import Mark
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import LagTeller, Meter
from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

_POLL_MS: Final = 200
_COMMIT_S: Final = 1.0
_LAG_S: Final = 1.0
_STOP_S: Final = 5.0
_RESTART_S: Final = (0.1, 5.0)

_STORED: Final = """
SELECT next, last FROM bus.kafka_offsets WHERE group_name = $1 AND topic = $2 AND partition = $3
"""
_FIRST: Final = """
INSERT INTO bus.kafka_offsets (group_name, topic, partition, next, last) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING true
"""
_ADVANCE: Final = """
UPDATE bus.kafka_offsets SET next = $4, last = $5
WHERE group_name = $1 AND topic = $2 AND partition = $3 AND next = $6 RETURNING true
"""

Raw: TypeAlias = "ConsumerRecord[bytes, bytes]"


@dataclass(slots=True, eq=False)
class Place:
    """Where the group stands in a partition."""

    patience: Patience
    mark: Mark | None = None
    """None before the first record."""
    first: int = 0
    """Offset where reading began, for as long as there is no mark."""
    known: bool = False
    """Whether the mark is what the store says."""
    doubtful: bool = False
    """Whether it has still to be seen that the mark is of this log."""
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
        self._lag_teller = LagTeller(meter)
        self._places: dict[TopicPartition, Place] = {}
        # Whose places are still to be looked up.
        self._assigned: set[TopicPartition] = set()
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
                elif is_transient(error):
                    _log.warning("group %s joins again: %s", self._group, type(error).__name__)
                else:
                    _log.warning("group %s joins again", self._group, exc_info=error)
            lasted = time.monotonic() - began > _RESTART_S[1]
            pause_s = _RESTART_S[0] if lasted else min(pause_s * 2, _RESTART_S[1])
            await asyncio.sleep(pause_s)

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Events not yet handled, by (topic, partition), as of the last fetch of each."""
        return self._lag(doubtful=False)

    def _lag(self, *, doubtful: bool) -> Mapping[tuple[str, int], int]:
        """With `doubtful`, also of partitions where a commit failed, which may be further than we know."""
        found: dict[tuple[str, int], int] = {}
        consumer = self._consumer
        if consumer is None:
            return found
        # The place of one that has gone is there until we are told which ones have come.
        held = consumer.assignment()
        for partition, place in self._places.items():
            high = consumer.highwater(partition) if partition in held else None
            if high is not None and (place.known or (doubtful and place.mark is not None)):
                name = self._options.name_here(partition.topic)
                begin = place.first if place.mark is None else place.mark.next
                found[name, partition.partition] = max(0, high - begin)
        return found

    async def _session(self) -> None:
        """From joining to leaving the group."""
        consumer = AIOKafkaConsumer(**self._options.consumer(self._group))
        self._places.clear()
        self._assigned.clear()
        names = [self._options.name_in_cluster(topic) for topic in self._topics]
        consumer.subscribe(topics=names, listener=_Changes(self._places, self._assigned))
        telling = asyncio.create_task(self._tell_lag(), name="bus-lag")
        try:
            await consumer.start()
            self._consumer = consumer
            while True:
                self._resume(consumer)
                await self._look_up(consumer)
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                unless_cut_off(consumer)
                for partition, raw in fetched.items():
                    if partition in consumer.assignment():  # it may have gone while another was handled
                        await self._take(consumer, partition, raw)
                self._watch.worked(self._trouble)
                await self._commit(consumer)
        finally:
            self._consumer = None
            telling.cancel()
            self._lag_teller.end()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(consumer.stop(), _STOP_S)

    async def _look_up(self, consumer: AIOKafkaConsumer) -> None:
        """Goes on where the store says with what was assigned just now.

        What Kafka was told may be behind what we did, ahead of a store restored from a backup, or of a topic
        that was there before: at the end of one with just as many other events nothing comes that shows it.
        """
        # A rebalance may come while the store is asked: it says anew which these are.
        while self._assigned:
            partition = self._assigned.pop()
            if partition in consumer.assignment():
                # Some of it may have been tried in vain, and held, before we were told.
                consumer.resume(partition)
            place = self._places[partition] = Place(Patience(self._max_batch))
            await self._from_store(consumer, partition, place)

    async def _from_store(self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place) -> bool:
        """Whether the store knows where the group stands; then reading goes on there."""
        place.mark = await self._stored(partition)
        if place.mark is None:
            return False
        place.known = place.doubtful = True
        self._seek(consumer, partition, place, place.mark.back)
        return True

    async def _take(self, consumer: AIOKafkaConsumer, partition: TopicPartition, raw: Sequence[Raw]) -> None:
        place = self._places.setdefault(partition, Place(Patience(self._max_batch)))
        if not place.known:
            self._assigned.discard(partition)
            if await self._from_store(consumer, partition, place):
                return
            place.known, place.first = True, raw[0].offset
        if place.mark is not None and (place.doubtful or raw[0].offset < place.mark.next):
            place.doubtful = False
            if not place.mark.fits(self._options.to_record(raw[0])):
                await self._begin_anew(consumer, partition, place, place.mark)
                return
        after = place.mark.next if place.mark is not None else 0
        fresh = [one for one in raw if one.offset >= after]
        # Told by the header alone, before anything is decoded.
        records = [self._options.to_record(one) for one in fresh if self._unwanted not in one.headers]
        while records and self._places.get(partition) is place:  # else it was revoked meanwhile
            batch, records = records[: place.patience.limit], records[place.patience.limit :]
            try:
                handled = await self._handle(partition, place, batch)
            except FencedError:
                self._lost(consumer, partition, place, batch[0].position)
                return
            if not handled:
                place.known = False  # the commit may have happened although we saw it fail
                if self._seek(consumer, partition, place, batch[0].position):
                    consumer.pause(partition)
                    place.paused = True
                return
        if self._unwanted is not None and fresh:
            await self._pass(consumer, partition, place, fresh)

    async def _begin_anew(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, mark: Mark
    ) -> None:
        """What lies before the mark is not what the group has handled: this is another log under the name."""
        first = (await consumer.beginning_offsets([partition]))[partition]
        _log.warning(
            "%s/%d has other events before %d, where group %s stands: the topic was made anew, it is read "
            "from %d on", partition.topic, partition.partition, mark.next, self._group, first,
        )  # fmt: skip
        if await self._pool.fetchval(_ADVANCE, *self._key(partition), first, None, mark.next) is None:
            place.known = False
        else:
            place.mark, place.first = Mark(first), first
        self._seek(consumer, partition, place, first)

    async def _pass(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, seen: Sequence[Raw]
    ) -> None:
        """Moves on over what is not wanted behind the last record that was."""
        before, mark = place.mark, Mark.behind(self._options.to_record(seen[-1]))
        if self._places.get(partition) is not place or before == mark:
            return
        statement, rest = (_FIRST, ()) if before is None else (_ADVANCE, (before.next,))
        if await self._pool.fetchval(statement, *self._key(partition), mark.next, mark.proof, *rest) is None:
            self._lost(consumer, partition, place, seen[0].offset)
        else:
            place.mark = mark

    async def _handle(self, partition: TopicPartition, place: Place, batch: list[Record]) -> bool:
        before, mark = place.mark, Mark.behind(batch[-1])
        statement, rest = (_FIRST, ()) if before is None else (_ADVANCE, (before.next,))
        arguments = (*self._key(partition), mark.next, mark.proof, *rest)

        async def advance(connection: asyncpg.Connection) -> bool:
            return await connection.fetchval(statement, *arguments) is not None

        if not await self._handling.handle(batch, place.patience, advance):
            return False
        place.mark = mark
        return True

    def _lost(self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, offset: int) -> None:
        """Somebody else has moved the group on. Once it is ours alone, the store tells where to go on: it is
        asked at the next record, so that there has to be one.
        """
        _log.warning("group %s lost %s", self._group, partition)
        place.known = False
        self._seek(consumer, partition, place, offset)

    def _seek(self, consumer: AIOKafkaConsumer, partition: TopicPartition, place: Place, offset: int) -> bool:
        """Reads on from there; False if the partition is not ours any more."""
        if self._places.get(partition) is not place or partition not in consumer.assignment():
            return False
        consumer.seek(partition, offset)
        return True

    async def _stored(self, partition: TopicPartition) -> Mark | None:
        row = await self._pool.fetchrow(_STORED, *self._key(partition))
        return None if row is None else Mark.stored(row["next"], row["last"])

    def _key(self, partition: TopicPartition) -> tuple[str, str, int]:
        return self._group, self._options.name_here(partition.topic), partition.partition

    def _resume(self, consumer: AIOKafkaConsumer) -> None:
        now = time.monotonic()
        for partition, place in self._places.items():
            if place.paused and place.patience.retry_at <= now and partition in consumer.assignment():
                consumer.resume(partition)
                place.paused = False

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        """Tells Kafka where we stand: for others to see, and for the start where our store has nothing."""
        if time.monotonic() < self._commit_at:
            return
        self._commit_at = time.monotonic() + _COMMIT_S
        offsets = {
            one: place.mark.next
            for one, place in self._places.items()
            if place.known and not place.doubtful and place.mark is not None
        }
        if offsets:
            # A rebalance is under way, or the coordinator away; the store knows better anyhow.
            with contextlib.suppress(KafkaError, TimeoutError):
                async with asyncio.timeout(_COMMIT_S):
                    await consumer.commit(offsets)

    async def _tell_lag(self) -> None:
        """Beside the reading: a handler that hangs or fails again and again is what lag is looked at for."""
        while True:
            self._lag_teller.tell(lambda: self._lag(doubtful=True))
            await asyncio.sleep(_LAG_S)


class _Changes(ConsumerRebalanceListener):  # type: ignore[misc]
    """Forgets where partitions stood that come or go, and notes those that come. All do at each rebalance."""

    def __init__(self, places: dict[TopicPartition, Place], assigned: set[TopicPartition]) -> None:
        self._places = places
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        self._places.clear()
        self._assigned.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        # Records of one that has gone may have been handled since it was revoked.
        self._places.clear()
        self._assigned.update(assigned)
