"""A member of a group of readers on the embedded bus."""

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Sequence
from typing import Final

import asyncpg

from services.mesh.events.handling import BatchHandling, FencedError, Patience
from services.mesh.events.metering import Meter
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import PostgresLog
from services.mesh.events.postgres_reader import Batch, Cursor, PartitionReader
from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

_BALANCE: Final = "SELECT part, position, missing FROM bus.balance($1, $2, $3, $4)"
_LEAVE: Final = "SELECT bus.leave($1, $2)"
_ADVANCE: Final = """
UPDATE bus.offsets SET position = $5
WHERE group_name = $1 AND part = $2 AND position = $3 AND owner = $4 RETURNING true
"""
# The same for many partitions in which nothing was of concern. Nothing is lost if a crash undoes it, so
# nobody waits for the disk: the setting ends with the transaction.
_PASS: Final = """
UPDATE bus.offsets o SET position = m.until
FROM unnest($3::integer[], $4::bigint[], $5::bigint[]) AS m (part, after, until)
WHERE o.group_name = $1 AND o.owner = $2 AND o.part = m.part AND o.position = m.after
RETURNING o.part, set_config('synchronous_commit', 'off', true)
"""
# Pause after a read in which all was passed over: the next one does as much at once as comes meanwhile.
_PASS_S: Final = 0.1
# How often the balance is looked at although nothing was heard of a change, and while partitions are missing:
# the first time and the last.
_BALANCE_S: Final = 30.0
_MISSING_S: Final = (0.1, 2.0)
_LEAVE_S: Final = 2.0


class GroupConsumer(PartitionReader):
    """Shares the partitions of its topics with the group's other members, in whatever process they run."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        log: PostgresLog,
        link: PostgresLink,
        group: str,
        topics: list[str],
        handling: BatchHandling,
        max_batch: int,
        meter: Meter,
        unless_from: str = "",
    ) -> None:
        super().__init__(log, link, max_batch, meter, unless_from)
        log.partitions(topics)  # an unknown topic is told here, not in a background task
        self._pool = pool
        self.group = group
        self._topics = topics
        self._handling = handling
        self._balance_at = 0.0
        self._missing_s = _MISSING_S[0]

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
                    await self._handle_all(await self._next(max(0.0, self._balance_at - time.monotonic())))
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
            self._lag_teller.end()
            await self._drop_ahead()
            await self._leave()

    def group_changed(self) -> None:
        """Looks at the balance before the next batch."""
        self._balance_at = 0.0
        self._wake.set()

    async def _balance(self) -> None:
        """Learns which partitions are ours and where the group stands in them. Keeps those that are busy."""
        self._balance_at = time.monotonic() + _BALANCE_S  # unless something changes meanwhile
        busy = list(self._busy())
        arguments = self.group, self.member, self._topics, busy
        rows = await self._link.call(lambda connection: connection.fetch(_BALANCE, *arguments, timeout=30))
        missing = rows[-1]["missing"]
        positions = {row["part"]: row["position"] for row in rows if row["part"] is not None}
        for part in self._cursors.keys() - positions.keys():
            del self._cursors[part]
        for part, position in positions.items():
            cursor = self._cursors.get(part)
            if cursor is None:
                self._cursors[part] = Cursor(self._log.partition(part), position, Patience(self._max_batch))
            elif part not in busy and cursor.position != position:  # a commit whose answer was lost
                cursor.position, cursor.pending = position, True
        if missing:
            self._balance_at = min(self._balance_at, time.monotonic() + self._missing_s)
            self._missing_s = min(self._missing_s * 2, _MISSING_S[1])
        else:
            self._missing_s = _MISSING_S[0]

    async def _handle_all(self, batches: Sequence[Batch]) -> None:
        """One after the other: a handler never runs beside itself."""
        passed = [batch for batch in batches if not batch.records]
        for batch in batches:
            if batch.records:
                await self._handle(batch)
        if passed:
            await self._pass(passed)
            if len(passed) == len(batches):
                await asyncio.sleep(_PASS_S)

    async def _handle(self, batch: Batch) -> None:
        cursor = batch.cursor
        if self._balance_at == 0.0:  # somebody may be waiting for this partition, or have it already
            cursor.pending = True
            return
        advance = functools.partial(self._advance, batch=batch)
        try:
            handled = await self._handling.handle(batch.records, cursor.patience, advance)
        except FencedError:
            _log.warning("group %s lost %s", self.group, cursor.partition)
            self._cursors.pop(cursor.partition.part, None)
            self._balance_at = 0.0
            return
        if handled:
            self._handled(batch)
        else:
            cursor.pending = True
            self._balance_at = 0.0  # the commit may have happened although we saw it fail

    async def _advance(self, connection: asyncpg.Connection, *, batch: Batch) -> bool:
        part = batch.cursor.partition.part
        moved = await connection.fetchval(_ADVANCE, self.group, part, batch.after, self.member, batch.end)
        return moved is not None

    async def _pass(self, batches: Sequence[Batch]) -> None:
        """Moves on over batches without a record for us."""
        rows = await self._pool.fetch(
            _PASS,
            self.group,
            self.member,
            [batch.cursor.partition.part for batch in batches],
            [batch.after for batch in batches],
            [batch.end for batch in batches],
        )
        moved = {row["part"] for row in rows}
        for batch in batches:
            if batch.cursor.partition.part in moved:
                self._handled(batch)
            else:  # another member's by now
                self._cursors.pop(batch.cursor.partition.part, None)
                self._balance_at = 0.0

    async def _leave(self) -> None:
        member, self.member = self.member, ""
        self._cursors.clear()
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_LEAVE_S):
                await self._pool.execute(_LEAVE, self.group, member)
