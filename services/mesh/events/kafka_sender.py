"""Events to brokers, a batch at a time: one producer, acknowledged by all replicas, in order per partition.

Whole batches are handed to the producer instead of single events: without a future, a hash in Python and a
search for the right batch for each event, it sends several times as many.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed

from services.mesh.events.bus import Record
from services.mesh.events.cloud_events import TIME, time_of, to_headers
from services.mesh.events.kafka_client import MAX_EVENT_BYTES, KafkaOptions
from services.mesh.events.kafka_partitioner import partitions_of

Headers: TypeAlias = list[tuple[str, bytes]]

_STOP_S: Final = 2.0
# Between two tries to reach the cluster, from the first to the last.
_KNOCK_S: Final = (0.1, 1.0)
_ID: Final = "ce_id"


class _Line:
    """A producer, who uses it, and whether it has come to its end."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.sends: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()


class KafkaSender:
    """One producer, made when it is needed and made anew after a round that failed."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._line: _Line | None = None
        self._making: asyncio.Task[_Line] | None = None

    async def send(self, records: Sequence[Record]) -> None:
        """Sends events of one topic and waits for all acknowledgements, for one round at most.

        MessageSizeTooLargeError if one of them is larger than brokers take; TimeoutError or a KafkaError if
        it does not succeed. Any part may have arrived then. Those of a key keep their order: a partition's
        batches go one after the other, the next only when one is acknowledged.
        """
        async with asyncio.timeout(self._options.round_s):
            line = await self._made()
        try:
            async with asyncio.timeout(self._options.round_s):
                await self._unless_given_up(line, records)
        except MessageSizeTooLargeError:
            raise
        except BaseException:
            await asyncio.shield(self._drop(line))
            raise

    async def close(self) -> None:
        """Ends the producer."""
        if self._making is not None:
            self._making.cancel()
            await asyncio.gather(self._making, return_exceptions=True)
        if self._line is not None:
            await self._drop(self._line)

    async def _unless_given_up(self, line: _Line, records: Sequence[Record]) -> None:
        """ProducerClosed if another round ends the producer, which leaves no answer to these."""
        sending = asyncio.create_task(self._send(line.producer, records))
        line.sends.add(sending)
        try:
            await asyncio.wait({sending})
        finally:
            line.sends.discard(sending)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if sending.cancelled():
            raise ProducerClosed
        sending.result()

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Record]) -> None:
        topic = self._options.name_in_cluster(records[0].topic)
        keys = [record.key.encode() for record in records]
        for record, key in zip(records, keys, strict=True):
            if len(key) + len(record.value) > MAX_EVENT_BYTES:
                raise MessageSizeTooLargeError(f"{record.event_id} has {len(record.value)} bytes")
        partitions = partitions_of(keys, len(await producer.partitions_for(topic)))
        open_batches: dict[int, Any] = {}
        waiting: list[asyncio.Future[Any]] = []
        headers = _HeadersOf()
        try:
            for record, key, partition in zip(records, keys, partitions, strict=True):
                made = int(record.time.timestamp() * 1000)
                batch = open_batches.get(partition)
                extra = headers.of(record)
                while batch is None or batch.append(
                    timestamp=made, key=key, value=record.value, headers=extra
                ) is None:  # fmt: skip
                    if batch is not None:  # it is full
                        waiting.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = open_batches[partition] = producer.create_batch()
            for partition, batch in open_batches.items():
                batch.close()
                waiting.append(await producer.send_batch(batch, topic, partition=partition))
            await asyncio.gather(*waiting)
        finally:
            for future in waiting:
                # Nobody else asks what became of them once one has failed.
                if not future.cancel() and not future.cancelled():
                    future.exception()

    async def _made(self) -> _Line:
        """What there is, or what all who need one now wait for together."""
        if self._line is not None:
            return self._line
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(self._make())
            self._making.add_done_callback(_told)
        return await asyncio.shield(self._making)

    async def _make(self) -> _Line:
        """Knocks until somebody opens: what has piled up is to go soon after an outage."""
        pause_s = _KNOCK_S[0]
        while True:
            producer = AIOKafkaProducer(**self._options.producer())
            try:
                await producer.start()
            except (KafkaError, OSError, TimeoutError):
                await _end(producer)
            except BaseException:
                await _end(producer)
                raise
            else:
                self._line = _Line(producer)
                return self._line
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _KNOCK_S[1])

    async def _drop(self, line: _Line) -> None:
        """Ends this producer, or waits for its end: nothing of it may arrive after the next round's."""
        if self._line is line:
            self._line = None
            try:
                for sending in line.sends:
                    sending.cancel()
                await asyncio.gather(*line.sends, return_exceptions=True)
                await _end(line.producer)
            finally:
                line.ended.set()
        else:
            await line.ended.wait()


class _HeadersOf:
    """Headers of events: all but the id are the same for most neighbours."""

    def __init__(self) -> None:
        self._like: Record | None = None
        self._shared: Headers = []
        self._at: datetime | None = None
        self._time = (TIME, b"")

    def of(self, record: Record) -> Headers:
        like = self._like
        if (
            like is None
            or record.headers is not like.headers
            or record.type != like.type
            or record.content_type != like.content_type
            or record.source != like.source
        ):
            self._like = record
            self._shared = [
                (name, value.encode())
                for name, value in to_headers(record, record.source).items()
                if name != _ID
            ]
        if record.time != self._at:
            self._at = record.time
            self._time = (TIME, time_of(record.time).encode())
        return [(_ID, record.event_id.encode()), self._time, *self._shared]


def _told(making: asyncio.Task[_Line]) -> None:
    """Nobody may be left who waits for it."""
    if not making.cancelled():
        making.exception()


async def _end(producer: AIOKafkaProducer) -> None:
    """Ends a producer and what it has not sent, for which nobody waits any more.

    `stop` would wait for that, without brokers for ever; there is no public way to give it up.
    """
    vars(producer)["_closed"] = True  # else it would complain that nobody has ended it
    sender = getattr(producer, "_sender", None)
    for closing in (getattr(sender, "close", None), producer.client.close):
        if closing is not None:
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(closing(), _STOP_S)
