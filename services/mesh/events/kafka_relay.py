"""The relay sends what our transactions published on to Kafka, in order, and deletes it from the log.

Every process runs a member of one group on the log; the members share its partitions. An event leaves the log
only after the brokers have acknowledged it, so a crash in between sends it again with the same id.
"""

import asyncio
import functools
import logging
from collections.abc import Collection, Sequence
from typing import Final

import asyncpg
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from services.mesh.events.bus import Record
from services.mesh.events.dead_letters import dead_letter
from services.mesh.events.handling import Advance, FencedError, Patience
from services.mesh.events.kafka_sender import KafkaSender
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.metering import Meter, SilentMeter, count_published
from services.mesh.events.postgres_group import GroupConsumer
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch, Cursor
from services.mesh.outboxes import Waiting

_log = logging.getLogger(__name__)

GROUP: Final = "kafka-relay"
_BATCH: Final = 1000
# How long a turn waits for all its partitions: many times what brokers that are there need.
_TURN_S: Final = 0.25
# How long one that ends waits for answers.
_FINISH_S: Final = 1.0
# Of each partition only the oldest event is looked at: an outage of hours leaves millions.
_UNSENT: Final = """
SELECT coalesce(sum(greatest(h.last - o.position, 0)), 0)::bigint,
  coalesce(extract(epoch FROM clock_timestamp() - min(l.time)), 0)::float8
FROM bus.offsets o JOIN bus.heads h USING (part)
LEFT JOIN LATERAL (
  SELECT time FROM bus.log WHERE log.part = o.part AND log.position > o.position ORDER BY log.position LIMIT 1
) l ON true
WHERE o.group_name = $1
"""
_DELETE: Final = "DELETE FROM bus.log WHERE part = $1 AND position <= $2"


async def unsent(pool: asyncpg.Pool) -> Waiting:
    """What waits in the log for the relay. Raises what the store raises."""
    events, oldest_age_s = await pool.fetchrow(_UNSENT, GROUP)
    return Waiting(events, oldest_age_s)


class RelayHandling:
    """Sends a batch outside of any transaction, since it may take long, and then moves on."""

    def __init__(
        self, pool: asyncpg.Pool, log: PostgresLog, sender: KafkaSender, meter: Meter, watch: KafkaWatch
    ) -> None:
        self._pool = pool
        self._log = log
        self._sender = sender
        self._meter = meter
        self._watch = watch
        # By topic and partition of the log: what brokers have of a batch that is not yet through.
        self._acknowledged: dict[tuple[str, int], set[int]] = {}

    async def handle(self, records: list[Record], patience: Patience, advance: Advance) -> bool:
        """Sends a batch; False while the brokers do not take it. Nothing is ever given up."""
        place = (records[0].topic, records[0].partition)
        try:
            await self._send(records, self._acknowledged.setdefault(place, set()))
            async with self._pool.acquire() as connection, connection.transaction():
                if not await advance(connection):
                    raise FencedError
        except (FencedError, asyncio.CancelledError):
            self._acknowledged.pop(place, None)
            raise
        except Exception as error:
            pause_s = patience.failed(error, len(records))
            patience.limit = patience.most
            if isinstance(error, KafkaError | TimeoutError):
                self._watch.failed(f"events of {records[0].topic} wait for Kafka", error)
            else:
                _log.warning(
                    "%d events of %s are not sent: %s; again in %.2f s",
                    len(records), records[0].topic, type(error).__name__, pause_s,
                )  # fmt: skip
            return False
        self._acknowledged.pop(place, None)
        patience.succeeded()
        self._watch.worked(f"events of {records[0].topic} wait for Kafka")
        self._meter.count(records[0].topic, "relayed", len(records))
        return True

    async def _send(self, records: list[Record], acknowledged: set[int]) -> None:
        def late() -> None:
            self._watch.failed(f"events of {records[0].topic} wait for Kafka", TimeoutError())

        try:
            await self._sender.send(records, acknowledged, late)
        except MessageSizeTooLargeError:
            # One of them no broker will ever take: one by one, so that only this one is replaced.
            for record in records:
                try:
                    await self._sender.send([record], acknowledged, late)
                except MessageSizeTooLargeError as error:
                    await self._bury(record, error)
                    acknowledged.add(record.position)

    async def _bury(self, record: Record, error: MessageSizeTooLargeError) -> None:
        """Its dead letter goes without the value: that would be too large as well."""
        _log.error("an event of %s is too large for Kafka: %s (%s)", record.topic, record.event_id, error)
        letter = dead_letter(record, f"too large for Kafka: {len(record.value)} bytes", GROUP, value=b"")
        async with self._pool.acquire() as connection, connection.transaction():
            await self._log.append(connection, [letter])
        count_published(self._meter, [letter])


class KafkaRelay(GroupConsumer):
    """A member of the relay's group. Partitions are sent side by side: none waits for another's brokers."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresLog,
        link: PostgresLink,
        topics: list[str],
        sender: KafkaSender,
        meter: Meter,
        watch: KafkaWatch,
    ) -> None:
        handling = RelayHandling(pool, log, sender, meter, watch)
        # Its lag is that of the outbox, and not of those who read the topics.
        super().__init__(pool, log, link, GROUP, topics, handling, _BATCH, SilentMeter())
        self._under_way: dict[int, asyncio.Task[None]] = {}
        # Those that were under way at the last look at the balance.
        self._kept: set[int] = set()

    async def _handle_all(self, batches: Sequence[Batch]) -> None:
        """Goes on without those that take long: their brokers may be away for minutes."""
        sends = []
        for batch in batches:
            part = batch.cursor.partition.part
            sends.append(asyncio.create_task(self._handle(batch), name="bus-relay-send"))
            self._under_way[part] = sends[-1]
            sends[-1].add_done_callback(functools.partial(self._done, batch.cursor))
        if sends:
            done, _ = await asyncio.wait(sends, timeout=_TURN_S)
            for send in done:
                send.result()

    def _done(self, cursor: Cursor, send: asyncio.Task[None]) -> None:
        part = cursor.partition.part
        self._under_way.pop(part, None)
        cursor.pending = True
        self._wake.set()
        failed = not send.cancelled() and send.exception() is not None
        if failed or part in self._kept:  # as after any turn that failed; or somebody may wait for it
            self._balance_at = 0.0

    def _busy(self) -> Collection[int]:
        """Those are not given away either: another member could have its sends come before ours."""
        return self._under_way.keys()

    async def _balance(self) -> None:
        self._kept = set(self._under_way)
        await super()._balance()

    async def _leave(self) -> None:
        sends = list(self._under_way.values())
        if sends:  # an answer that nobody waits for any more is one event sent twice
            await asyncio.wait(sends, timeout=_FINISH_S)
        for send in sends:
            send.cancel()
        await asyncio.gather(*sends, return_exceptions=True)
        await super()._leave()

    async def _advance(self, connection: asyncpg.Connection, *, batch: Batch) -> bool:
        if not await super()._advance(connection, batch=batch):
            return False
        await connection.execute(_DELETE, batch.cursor.partition.part, batch.records[-1].position)
        return True
