"""A reader of all partitions on Kafka, without a group."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from services.mesh.events.bus import BroadcastHandler, PoisonMessage, Record
from services.mesh.events.causes import serving
from services.mesh.events.handling import Patience
from services.mesh.events.inbox import event_digest
from services.mesh.events.kafka_client import KafkaOptions, unless_cut_off
from services.mesh.events.kafka_group import Raw
from services.mesh.events.kafka_mark import Mark
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import LagTeller, Meter

_log = logging.getLogger(__name__)

_POLL_MS: Final = 200
_STOP_S: Final = 5.0
_RESTART_S: Final = (0.1, 5.0)
# A producer that sends an event twice does so within its next few batches.
_REMEMBERED: Final = 20_000


class KafkaBroadcastConsumer:
    """Keeps its positions in memory; goes on where it stood after whatever ends its session."""

    def __init__(
        self,
        options: KafkaOptions,
        topics: list[str],
        handler: BroadcastHandler,
        from_start: bool,
        max_batch: int,
        meter: Meter,
        watch: KafkaWatch,
    ) -> None:
        self._options = options
        self._topics = topics
        self._handler = handler
        self._from_start = from_start
        self._meter = meter
        self._lag_teller = LagTeller(meter)
        self._watch = watch
        self._trouble = f"a reader of {', '.join(topics)} cannot read"
        self._patience = Patience(max_batch)
        self._marks: dict[TopicPartition, Mark] = {}
        self._doubtful: set[TopicPartition] = set()
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._consumer: AIOKafkaConsumer | None = None
        self.caught_up = asyncio.Event()

    async def run(self) -> None:
        """Reads until cancelled."""
        pause_s = _RESTART_S[0]
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except Exception as error:
                if isinstance(error, KafkaError | TimeoutError):
                    self._watch.failed(self._trouble, error)
                else:
                    _log.warning("a reader of %s begins again", ", ".join(self._topics), exc_info=error)
            lasted = time.monotonic() - began > _RESTART_S[1]
            pause_s = _RESTART_S[0] if lasted else min(pause_s * 2, _RESTART_S[1])
            await asyncio.sleep(pause_s)

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Events not yet handled, by (topic, partition), as of the last fetch of each."""
        found: dict[tuple[str, int], int] = {}
        consumer = self._consumer
        if consumer is None:
            return found
        held = consumer.assignment()  # not all, once a topic has gone
        for partition, mark in self._marks.items():
            high = consumer.highwater(partition) if partition in held else None
            if high is not None:
                name = self._options.name_here(partition.topic)
                found[name, partition.partition] = max(0, high - mark.next)
        return found

    async def _session(self) -> None:
        names = [self._options.name_in_cluster(topic) for topic in self._topics]
        # Who stood somewhere leaves nothing out: what is gone from there is gone, or the log is another.
        from_start = self._from_start or bool(self._marks)
        consumer = AIOKafkaConsumer(*names, **self._options.consumer(None, from_start=from_start))
        try:
            await consumer.start()
            self._consumer = consumer
            partitions = list(consumer.assignment())
            if {one.topic for one in partitions} != set(names):
                # Else it would have read to the end of nothing.
                raise UnknownTopicOrPartitionError
            if self._marks:  # what was not there when reading began holds nothing of the past
                firsts = await consumer.beginning_offsets(partitions)
                for partition in partitions:
                    mark = self._marks.setdefault(partition, Mark(firsts[partition]))
                    consumer.seek(partition, mark.back)
                    self._doubtful.add(partition)
            ends = await consumer.end_offsets(partitions)
            # Fixes the place of a reader that leaves the past out before anybody relies on it; all at once.
            begins = {partition: Mark(await consumer.position(partition)) for partition in partitions}
            self._marks = {**begins, **self._marks}
            while True:
                fetched = await consumer.getmany(timeout_ms=_POLL_MS)
                unless_cut_off(consumer)
                if set(consumer.assignment()) != set(partitions):
                    return  # a topic has more partitions now, or is gone: the library begins all of them anew
                for partition, raw in fetched.items():
                    await self._take(consumer, partition, raw)
                self._watch.worked(self._trouble)
                self._lag_teller.tell(self.lag)
                if not self.caught_up.is_set() and await _reached(consumer, ends):
                    self.caught_up.set()
        finally:
            self._consumer = None
            self._lag_teller.end()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(consumer.stop(), _STOP_S)

    async def _take(self, consumer: AIOKafkaConsumer, partition: TopicPartition, raw: Sequence[Raw]) -> None:
        """Handles one partition's records, however long it takes: a broadcast reader leaves nothing out."""
        mark = self._marks[partition]
        if partition in self._doubtful or raw[0].offset < mark.next:
            self._doubtful.discard(partition)
            if not mark.fits(self._options.to_record(raw[0])):
                first = (await consumer.beginning_offsets([partition]))[partition]
                _log.warning(
                    "%s/%d has other events before %d, where a reader stands: the topic was made anew, it is "
                    "read from %d on", partition.topic, partition.partition, mark.next, first,
                )  # fmt: skip
                self._marks[partition] = Mark(first)
                consumer.seek(partition, first)
                return
            raw = [one for one in raw if one.offset >= mark.next]
        records = [self._options.to_record(one) for one in raw]
        fresh = [record for record in records if self._is_new(record)]
        while fresh:
            batch = fresh[: self._patience.limit]
            try:
                with serving(batch):
                    await self._handler(batch)
            except PoisonMessage as poison:
                _log.error("left out: %s", poison)
                self._meter.count(poison.record.topic, "dead", 1)
                fresh = [record for record in fresh if record is not poison.record]
            except Exception as error:
                pause_s = self._patience.failed(error, len(batch))
                _log.exception("a broadcast handler failed at %s; again in %.2f s", partition, pause_s)
                self._meter.count(batch[0].topic, "failed", len(batch))
                await asyncio.sleep(pause_s)
            else:
                self._patience.succeeded()
                self._meter.count(batch[0].topic, "consumed", len(batch))
                fresh = fresh[len(batch) :]
        if records:
            self._marks[partition] = Mark.behind(records[-1])

    def _is_new(self, record: Record) -> bool:
        digest = event_digest(record)
        if digest in self._seen:
            return False
        self._seen[digest] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True


async def _reached(consumer: AIOKafkaConsumer, ends: Mapping[TopicPartition, int]) -> bool:
    for partition, end in ends.items():
        if await consumer.position(partition) < end:
            return False
    return True
