"""The relay sends what our transactions published on to Kafka, in order, and deletes it from the log.

Every process runs a member of one group on the log; the members share its partitions. An event leaves the log
only after the brokers have acknowledged it, so a crash in between sends it again with the same id.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import asyncpg
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from services.mesh.events.bus import Record
from services.mesh.events.cloud_events import to_headers
from services.mesh.events.dead_letters import dead_letter
from services.mesh.events.handling import Advance, FencedError, Patience
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.metering import Meter
from services.mesh.events.postgres_group import GroupConsumer
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch

_log = logging.getLogger(__name__)

GROUP: Final = "kafka-relay"
_STOP_S: Final = 2.0
_BATCH: Final = 1000
_DELETE: Final = "DELETE FROM bus.log WHERE part = $1 AND position <= $2"


class KafkaSender:
    """One producer, made when it is needed and made anew after a round that failed."""

    def __init__(self, options: KafkaOptions) -> None:
        self._options = options
        self._producer: AIOKafkaProducer | None = None
        self._making = asyncio.Lock()

    async def send(self, records: Sequence[Record]) -> None:
        """Sends and waits for all acknowledgements, for one round at most.

        TimeoutError or a KafkaError if it does not succeed; any part may have arrived then. Those of a key
        keep their order: the producer sends a partition's batches one after the other and goes on to the
        next only when one is acknowledged.
        """
        async with asyncio.timeout(self._options.round_s):
            producer = await self._made()
        try:
            async with asyncio.timeout(self._options.round_s):
                waiting = [
                    await producer.send(
                        self._options.name_in_cluster(record.topic),
                        value=record.value,
                        key=record.key.encode(),
                        headers=[(k, v.encode()) for k, v in to_headers(record, record.source).items()],
                    )
                    for record in records
                ]
                await asyncio.gather(*waiting)
        except MessageSizeTooLargeError:
            raise
        except BaseException:
            await self._drop(producer)
            raise

    async def close(self) -> None:
        """Ends the producer."""
        if self._producer is not None:
            await self._drop(self._producer)

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


class RelayHandling:
    """Sends a batch outside of any transaction, since it may take long, and then moves on."""

    def __init__(self, pool: asyncpg.Pool, log: PostgresLog, sender: KafkaSender, meter: Meter) -> None:
        self._pool = pool
        self._log = log
        self._sender = sender
        self._meter = meter

    async def handle(self, records: list[Record], patience: Patience, advance: Advance) -> bool:
        """Sends a batch; False while the brokers do not take it. Nothing is ever given up."""
        try:
            await self._send(records)
            async with self._pool.acquire() as connection, connection.transaction():
                if not await advance(connection):
                    raise FencedError
        except FencedError:
            raise
        except Exception as error:
            pause_s = patience.failed(error, len(records))
            patience.limit = patience.most
            _log.warning(
                "%d events of %s wait for Kafka: %s; again in %.2f s",
                len(records), records[0].topic, type(error).__name__, pause_s,
            )  # fmt: skip
            return False
        patience.succeeded()
        self._meter.count(records[0].topic, "relayed", len(records))
        return True

    async def _send(self, records: list[Record]) -> None:
        try:
            await self._sender.send(records)
        except MessageSizeTooLargeError:
            # One of them no broker will ever take: one by one, so that only this one is replaced.
            for record in records:
                try:
                    await self._sender.send([record])
                except MessageSizeTooLargeError as error:
                    await self._bury(record, error)

    async def _bury(self, record: Record, error: MessageSizeTooLargeError) -> None:
        """Its dead letter goes without the value: that would be too large as well."""
        _log.error("an event of %s is too large for Kafka: %s (%s)", record.topic, record.event_id, error)
        letter = dead_letter(record, f"too large for Kafka: {len(record.value)} bytes", GROUP, value=b"")
        async with self._pool.acquire() as connection, connection.transaction():
            await self._log.append(connection, [letter])


class KafkaRelay(GroupConsumer):
    """A member of the relay's group. Partitions are sent side by side: each waits for its brokers."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresLog,
        link: PostgresLink,
        topics: list[str],
        sender: KafkaSender,
        meter: Meter,
    ) -> None:
        super().__init__(
            pool, log, link, GROUP, topics, RelayHandling(pool, log, sender, meter), _BATCH, meter
        )

    async def _handle_all(self, batches: Sequence[Batch]) -> None:
        await asyncio.gather(*(self._handle(batch) for batch in batches))

    async def _advance(self, connection: asyncpg.Connection, *, batch: Batch) -> bool:
        if not await super()._advance(connection, batch=batch):
            return False
        await connection.execute(_DELETE, batch.cursor.partition.part, batch.records[-1].position)
        return True


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
