"""A reader of all partitions of the embedded bus, without a group."""

import asyncio
import logging
from typing import Final

from services.mesh.events.bus import BroadcastHandler, PoisonMessage, Record
from services.mesh.events.causes import serving
from services.mesh.events.handling import Patience
from services.mesh.events.metering import Meter
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch, Cursor, PartitionReader
from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

_IDLE_S: Final = 30.0


class BroadcastConsumer(PartitionReader):
    """Keeps its positions in memory; starts again where it stood if `run` is called again."""

    def __init__(
        self,
        log: PostgresLog,
        link: PostgresLink,
        topics: list[str],
        handler: BroadcastHandler,
        from_start: bool,
        max_batch: int,
        meter: Meter,
    ) -> None:
        super().__init__(log, link, max_batch, meter)
        self._partitions = log.partitions(topics)
        self._handler = handler
        self._from_start = from_start

    async def run(self) -> None:
        """Reads until cancelled."""
        self._link.add(self)
        pause_s = 0.05
        try:
            while True:
                try:
                    if not self._cursors:
                        await self._place()
                    for batch in await self._next(_IDLE_S):
                        await self._handle(batch)
                    pause_s = 0.05
                except Exception as error:
                    if is_transient(error):
                        _log.warning("a broadcast reader waits: %s", type(error).__name__)
                    else:
                        _log.exception("a broadcast reader cannot read")
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 1.0)
        finally:
            self._link.remove(self)
            self._lag_teller.end()
            await self._drop_ahead()

    async def _place(self) -> None:
        heads = {} if self._from_start else await self._log.heads()
        self._cursors = {
            one.part: Cursor(one, heads.get(one.part, 0), Patience(self._max_batch))
            for one in self._partitions
        }

    async def _handle(self, batch: Batch) -> None:
        records: list[Record] = batch.records
        while records:
            try:
                with serving(records):
                    await self._handler(records)
                break
            except PoisonMessage as poison:
                # Every process reads this topic: a dead letter from each would say the same many times over.
                _log.error("left out: %s", poison)
                self._meter.count(poison.record.topic, "dead", 1)
                records = [record for record in records if record is not poison.record]
            except Exception as error:
                batch.cursor.pending = True
                pause_s = batch.cursor.patience.failed(error, len(records))
                _log.exception(
                    "a broadcast handler failed at %s; again in %.2f s", batch.cursor.partition, pause_s
                )
                self._meter.count(batch.cursor.partition.topic, "failed", len(records))
                return
        batch.cursor.patience.succeeded()
        self._handled(batch)
        self._meter.count(batch.cursor.partition.topic, "consumed", len(batch.records))
