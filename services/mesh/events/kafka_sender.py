"""Events to brokers, a batch at a time: one producer, acknowledged by all replicas, in order per partition.

Whole batches are handed to the producer instead of single events: without a future, a hash in Python and a
search for the right batch for each event, it sends several times as many.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from services.mesh.events.bus import Record
from services.mesh.events.cloud_events import to_headers
from services.mesh.events.kafka_client import MAX_EVENT_BYTES, KafkaOptions
from services.mesh.events.kafka_partitioner import partitions_of

Headers: TypeAlias = list[tuple[str, bytes]]

_STOP_S: Final = 2.0
_ID: Final = "ce_id"


class KafkaSender:
    """One producer, made when it is needed and made anew after a round that failed."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._making = asyncio.Lock()

    async def send(self, records: Sequence[Record]) -> None:
        """Sends events of one topic and waits for all acknowledgements, for one round at most.

        MessageSizeTooLargeError if one of them is larger than brokers take; TimeoutError or a KafkaError if
        it does not succeed. Any part may have arrived then. Those of a key keep their order: a partition's
        batches go one after the other, the next only when one is acknowledged.
        """
        async with asyncio.timeout(self._options.round_s):
            producer = await self._made()
        try:
            async with asyncio.timeout(self._options.round_s):
                await self._send(producer, records)
        except MessageSizeTooLargeError:
            raise
        except BaseException:
            await self._drop(producer)
            raise

    async def close(self) -> None:
        """Ends the producer."""
        if self._producer is not None:
            await self._drop(self._producer)

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
                if future.done() and not future.cancelled():
                    future.exception()

    async def _made(self) -> AIOKafkaProducer:
        async with self._making:
            if self._producer is None:
                producer = AIOKafkaProducer(**self._options.producer())
                try:
                    await producer.start()
                except BaseException:
                    await _end(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _drop(self, producer: AIOKafkaProducer) -> None:
        """Ends this producer, unless somebody else has: nothing of it may arrive after the next round's."""
        if self._producer is producer:
            self._producer = None
            await asyncio.shield(_end(producer))


class _HeadersOf:
    """Headers of events: all but the id are the same for most neighbours."""

    def __init__(self) -> None:
        self._like: Record | None = None
        self._shared: Headers = []

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
        return [(_ID, record.event_id.encode()), *self._shared]


async def _end(producer: AIOKafkaProducer) -> None:
    """Stops a producer within a limit: without brokers, `stop` would wait for its batches for ever."""
    try:
        await asyncio.wait_for(producer.stop(), _STOP_S)
    except Exception:
        # What `stop` would have come to last. There is no public way to give up what is unsent.
        sender = getattr(producer, "_sender", None)
        for closing in (getattr(sender, "close", None), producer.client.close):
            if closing is not None:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await asyncio.wait_for(closing(), _STOP_S)
