"""A member of a group of readers on the embedded bus."""

import asyncio
import contextlib
import logging
import time
import uuid
from typing import Final

import asyncpg

from services.mesh.events.bus import Handler, PoisonMessage, Record
from services.mesh.events.dead_letters import dead_letter
from services.mesh.events.metering import Meter
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch, Cursor, PartitionReader
from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

_BALANCE: Final = "SELECT part, position, missing FROM bus.balance($1, $2, $3)"
_LEAVE: Final = "SELECT bus.leave($1, $2)"
_ADVANCE: Final = """
UPDATE bus.offsets SET position = $5
WHERE group_name = $1 AND part = $2 AND position = $3 AND owner = $4 RETURNING true
"""
# How often the balance is looked at although nothing was heard of a change, and while partitions are missing.
_BALANCE_S: Final = 30.0
_MISSING_S: Final = 0.1
_LEAVE_S: Final = 2.0
# A handler that fails on a single record this often, with everything it needs in place, will not succeed.
_ATTEMPTS: Final = 3


class FencedError(Exception):
    """Another member has this partition now; whatever was done here is rolled back."""


class GroupConsumer(PartitionReader):
    """Shares the partitions of its topics with the group's other members, in whatever process they run."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresLog,
        link: PostgresLink,
        group: str,
        topics: list[str],
        handler: Handler,
        max_batch: int,
        meter: Meter,
    ) -> None:
        super().__init__(log, link, max_batch, meter)
        log.partitions(topics)  # an unknown topic is told here, not in a background task
        self._pool = pool
        self.group = group
        self._topics = topics
        self._handler = handler
        self._balance_at = 0.0

    async def run(self) -> None:
        """Reads until cancelled; then gives its partitions back at once."""
        self.member = str(uuid.uuid4())
        self._balance_at = 0.0
        self._link.add(self)
        pause_s = 0.05
        try:
            while True:
                try:
                    if time.monotonic() >= self._balance_at:
                        await self._balance()
                    for batch in await self._next(max(0.0, self._balance_at - time.monotonic())):
                        await self._handle(batch)
                    pause_s = 0.05
                except Exception as error:
                    if is_transient(error):
                        _log.warning("group %s waits: %s", self.group, type(error).__name__)
                    else:
                        _log.exception("group %s cannot read", self.group)
                    self._balance_at = 0.0
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, 1.0)
        finally:
            self._link.remove(self)
            await self._drop_ahead()
            await self._leave()

    def group_changed(self) -> None:
        """Looks at the balance before the next batch."""
        self._balance_at = 0.0
        self._wake.set()

    async def _balance(self) -> None:
        """Learns which partitions are ours and where the group stands in them."""
        self._balance_at = time.monotonic() + _BALANCE_S  # unless something changes meanwhile
        rows = await self._link.call(
            lambda connection: connection.fetch(_BALANCE, self.group, self.member, self._topics, timeout=30)
        )
        missing = rows[-1]["missing"]
        positions = {row["part"]: row["position"] for row in rows if row["part"] is not None}
        for part in self._cursors.keys() - positions.keys():
            del self._cursors[part]
        for part, position in positions.items():
            cursor = self._cursors.get(part)
            if cursor is None:
                self._cursors[part] = Cursor(self._log.partition(part), position, self._max_batch)
            elif cursor.position != position:  # a commit whose answer was lost
                cursor.position, cursor.pending = position, True
        if missing:
            self._balance_at = min(self._balance_at, time.monotonic() + _MISSING_S)

    async def _handle(self, batch: Batch) -> None:
        cursor = batch.cursor
        if self._balance_at == 0.0:  # somebody may be waiting for this partition, or have it already
            cursor.pending = True
            return
        try:
            await self._apply(cursor, batch.records, [])
        except FencedError:
            _log.warning("group %s lost %s", self.group, cursor.partition)
            self._cursors.pop(cursor.partition.part, None)
            self._balance_at = 0.0
            return
        except Exception as error:
            if not await self._failed(batch, error):
                return
        self._handled(batch)
        self._meter.count(cursor.partition.topic, "consumed", len(batch.records))

    async def _failed(self, batch: Batch, error: Exception) -> bool:
        """Puts the partition off, or its only record away; whether the batch is done with."""
        cursor, records = batch.cursor, batch.records
        self._balance_at = 0.0  # the commit may have happened although we saw it fail
        self._meter.count(cursor.partition.topic, "failed", len(records))
        transient = is_transient(error)
        pause_s = cursor.failed()
        if transient:
            _log.warning(
                "group %s waits at %s: %s; again in %.2f s",
                self.group, cursor.partition, type(error).__name__, pause_s,
            )  # fmt: skip
            return False
        _log.error(
            "group %s failed at %s after %d, %d records; again in %.2f s",
            self.group, cursor.partition, batch.after, len(records), pause_s, exc_info=error,
        )  # fmt: skip
        if len(records) == 1 and cursor.failures >= _ATTEMPTS:
            reason = f"the handler failed {cursor.failures} times: {type(error).__name__}"
            await self._apply(cursor, [], [(records[0], reason)])
            return True
        cursor.limit = max(1, min(cursor.limit, len(records)) // 2)
        return False

    async def _apply(self, cursor: Cursor, records: list[Record], dead: list[tuple[Record, str]]) -> None:
        """Handler, dead letters and position in one transaction."""
        end = max([record.position for record in records] + [record.position for record, _ in dead])
        while True:
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    if records:
                        await self._handler(connection, records)
                    if dead:
                        letters = [dead_letter(record, reason, self.group) for record, reason in dead]
                        self._link.touched(connection, await self._log.append(connection, letters))
                    advanced = await connection.fetchval(
                        _ADVANCE, self.group, cursor.partition.part, cursor.position, self.member, end
                    )
                    if advanced is None:
                        raise FencedError
            except PoisonMessage as poison:
                rest = [record for record in records if record is not poison.record]
                if len(rest) == len(records):
                    raise RuntimeError("the handler named a record that it was not given") from poison
                _log.warning("group %s: %s", self.group, poison)
                records, dead = rest, [*dead, (poison.record, poison.reason)]
                continue
            if dead:
                self._meter.count(cursor.partition.topic, "dead", len(dead))
            return

    async def _leave(self) -> None:
        member, self.member = self.member, ""
        self._cursors.clear()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LEAVE_S):
                await self._pool.execute(_LEAVE, self.group, member)
