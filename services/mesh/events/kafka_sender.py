"""Events to brokers, a batch at a time: one producer, acknowledged by all replicas, in order per partition.

Whole batches are handed to the producer instead of single events: without a future, a hash in Python and a
search for the right batch for each event, it sends several times as many.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import Any, Final, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerClosed,
    TopicAuthorizationFailedError,
)

from services.mesh.events.bus import Record
from services.mesh.events.cloud_events import TIME, time_of, to_headers
from services.mesh.events.kafka_client import MAX_EVENT_BYTES, MAX_REQUEST_BYTES, KafkaOptions
from services.mesh.events.kafka_partitioner import partitions_of

Headers: TypeAlias = list[tuple[str, bytes]]

_STOP_S: Final = 2.0
# Between two tries to reach the cluster, from the first to the last.
_KNOCK_S: Final = (0.1, 1.0)
_ID: Final = "ce_id"
# Of one send: a producer that nobody has answered for so long is taken for broken itself.
_GIVE_UP_S: Final = 600.0
# Failures that say nothing of the producer.
_OF_ONE_PARTITION: Final = (MessageSizeTooLargeError, TopicAuthorizationFailedError)


class _Line:
    """A producer, who uses it, and whether it has come to its end."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.producer = producer
        self.sends: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()


@dataclass(frozen=True, slots=True)
class _Batch:
    """What goes to a partition in one request, and the places of its events in the log."""

    builder: Any
    positions: list[int]


class KafkaSender:
    """One producer for all who send, made when it is needed, and anew only after a failure that ends it.

    A producer numbers what it sends, so that brokers know again what it repeats: as long as it lives, no
    event lies in the cluster twice, however long brokers do not answer.
    """

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._line: _Line | None = None
        self._making: asyncio.Task[_Line] | None = None

    async def send(
        self, records: Sequence[Record], acknowledged: set[int], late: Callable[[], None] | None = None
    ) -> None:
        """Sends events of one partition of the log, without those whose positions are in `acknowledged`.

        Waits for the brokers, however long, and calls `late` after each round that brought no answer. Adds
        the positions of what they have acknowledged to the set, also if it fails for others: MessageSize-
        TooLargeError if an event is larger than brokers take, else a KafkaError, or a TimeoutError if there
        is no reaching them. Those of a key keep their order: the next batch of a partition goes when the one
        before is acknowledged.
        """
        async with asyncio.timeout(self._options.round_s):
            line = await self._made()
        try:
            await self._unless_given_up(line, records, acknowledged, late)
        except KafkaError as error:
            if not (error.retriable or isinstance(error, _OF_ONE_PARTITION)):
                await asyncio.shield(self._drop(line))
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

    async def _unless_given_up(
        self,
        line: _Line,
        records: Sequence[Record],
        acknowledged: set[int],
        late: Callable[[], None] | None,
    ) -> None:
        """ProducerClosed if another send ends the producer, which leaves no answer to these."""
        if self._line is not line:  # just now, while we waited for it
            raise ProducerClosed
        sending = asyncio.create_task(self._send(line.producer, records, acknowledged))
        line.sends.add(sending)
        began = time.monotonic()
        try:
            while not (await asyncio.wait({sending}, timeout=self._options.round_s))[0]:
                if late is not None:
                    late()
                if time.monotonic() - began > _GIVE_UP_S:
                    raise TimeoutError
        finally:
            line.sends.discard(sending)
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if sending.cancelled():
            raise ProducerClosed
        sending.result()

    async def _send(
        self, producer: AIOKafkaProducer, records: Sequence[Record], acknowledged: set[int]
    ) -> None:
        records = [record for record in records if record.position not in acknowledged]
        if not records:
            return
        topic = self._options.name_in_cluster(records[0].topic)
        keys = [record.key.encode() for record in records]
        for record, key in zip(records, keys, strict=True):
            if len(key) + len(record.value) > MAX_EVENT_BYTES:
                raise MessageSizeTooLargeError(f"{record.event_id} has {len(record.value)} bytes")
        chosen = partitions_of(keys, len(await producer.partitions_for(topic)))
        partitions: dict[int, list[_Batch]] = {}
        headers = _HeadersOf()
        for record, key, partition in zip(records, keys, chosen, strict=True):
            made = int(record.time.timestamp() * 1000)
            batches = partitions.setdefault(partition, [])
            extra = headers.of(record)
            while not batches or batches[-1].builder.append(
                timestamp=made, key=key, value=record.value, headers=extra
            ) is None:  # fmt: skip
                batches.append(_Batch(producer.create_batch(), []))  # the one before is full
            batches[-1].positions.append(record.position)
        for batch in chain.from_iterable(partitions.values()):
            if batch.builder.size() > MAX_REQUEST_BYTES:  # then it is a single event
                raise MessageSizeTooLargeError(f"an event with its headers has {batch.builder.size()} bytes")
        # Each to its end: what is still under way when this is over could come after what is sent next.
        ends = await asyncio.gather(
            *(_send_all(producer, topic, one, batches, acknowledged) for one, batches in partitions.items()),
            return_exceptions=True,
        )
        failures = [end for end in ends if end is not None]
        if failures:
            raise max(failures, key=_weight)

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
            _never_expire(producer)
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


async def _send_all(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    batches: Sequence[_Batch],
    acknowledged: set[int],
) -> None:
    """One after the other, each once it is acknowledged."""
    for batch in batches:
        batch.builder.close()
        while True:
            try:
                answer = await producer.send_batch(batch.builder, topic, partition=partition)
                break
            except KafkaTimeoutError:  # others' batches stand before it; it has not been taken in
                continue
        await answer
        acknowledged.update(batch.positions)


def _weight(failure: BaseException) -> int:
    """Of several failures the one that says most of what has to be done."""
    if not isinstance(failure, KafkaError):
        return 3
    if isinstance(failure, MessageSizeTooLargeError):
        return 1
    return 0 if failure.retriable or isinstance(failure, _OF_ONE_PARTITION) else 2


def _told(making: asyncio.Task[_Line]) -> None:
    """Nobody may be left who waits for it."""
    if not making.cancelled():
        making.exception()


def _never_expire(producer: AIOKafkaProducer) -> None:
    """Keeps batches of a partition without a leader until it has one again; there is no public way.

    The library would give them up when they are 10 s old, also those that a broker may have: numbered anew
    they would be there twice, and what was never sent would leave a gap in the numbers.
    """
    accumulator = getattr(producer, "_message_accumulator", None)
    if accumulator is not None:
        vars(accumulator)["_batch_ttl"] = math.inf


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
