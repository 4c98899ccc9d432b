"""Reading partitions of the log in turns, the next batches fetched while these are handled."""

import asyncio
import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.mesh.events.bus import Record
from services.mesh.events.handling import Patience
from services.mesh.events.metering import LagTeller, Meter
from services.mesh.events.postgres_link import PostgresLink
from services.mesh.events.postgres_log import Partition, PostgresLog, Slice


@dataclass(slots=True, eq=False)
class Cursor:
    """Where a reader stands in one partition."""

    partition: Partition
    position: int
    """Of the newest record handled."""
    patience: Patience
    pending: bool = True
    reached: bool = False
    """Whether everything that existed when reading began has been handled."""
    empty_to: int = 0
    """Newest position up to which nothing is left to read."""
    fetched_to: int = 0
    """Newest position that was read, handled or not."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition, read after `after`."""

    cursor: Cursor
    after: int
    records: list[Record]
    end: int
    """Newest position that was looked at: the last record's, or beyond where some are passed over."""
    known: int
    """The partition's newest position before the read."""
    last: bool
    """Whether there was nothing more when it was read."""


class PartitionReader:
    """Cursors, their waking, and reading ahead. Group and broadcast consumers are made of it."""

    group = ""
    member = ""

    def __init__(
        self, log: PostgresLog, link: PostgresLink, max_batch: int, meter: Meter, unless_from: str = ""
    ) -> None:
        if max_batch < 1:
            raise ValueError("max_batch must be at least 1")
        self._log = log
        self._link = link
        self._max_batch = max_batch
        self._unless_from = unless_from
        self._meter = meter
        self._lag_teller = LagTeller(meter)
        self._cursors: dict[int, Cursor] = {}
        self._wake = asyncio.Event()
        self._ahead: asyncio.Task[list[Batch]] | None = None
        self.caught_up = asyncio.Event()

    def lag(self) -> Mapping[tuple[str, int], int]:
        """Events not yet handled, by (topic, partition); as of the last poll."""
        heads = self._link.heads
        return {
            (cursor.partition.topic, cursor.partition.partition): max(
                0, max(heads.get(part, 0), cursor.fetched_to) - max(cursor.position, cursor.empty_to)
            )
            for part, cursor in self._cursors.items()
        }

    def published(self, parts: Iterable[int]) -> None:
        """Events may have come into these partitions."""
        for part in parts:
            cursor = self._cursors.get(part)
            if cursor is not None:
                cursor.pending = True
                self._wake.set()

    def heads_known(self, heads: Mapping[int, int]) -> None:
        """The newest positions of all partitions."""
        for part, cursor in self._cursors.items():
            if heads.get(part, 0) > max(cursor.position, cursor.empty_to):
                cursor.pending = True
                self._wake.set()
        self._lag_teller.tell(self.lag)

    def group_changed(self) -> None:
        """Of concern to members of groups alone."""

    async def _next(self, timeout_s: float) -> list[Batch]:
        """The next batches, one per partition at most; none after the timeout or a change.

        A batch without records is one in which all was passed over.
        """
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            batches = [batch for batch in await ahead if self._fits(batch)]
        else:
            ready = self._ready()
            if not ready:
                await self._sleep(timeout_s)
                ready = self._ready()
                if not ready:
                    return []
            batches = await self._fetch([(cursor, cursor.position) for cursor in ready])
        self._read_ahead(batches)
        for batch in batches:
            if batch.end == batch.after:
                self._emptied(batch)
        return [batch for batch in batches if batch.end > batch.after]

    def _handled(self, batch: Batch) -> None:
        """The batch's records are done with."""
        cursor = batch.cursor
        cursor.position = batch.end
        if batch.last:
            self._emptied(batch)
        elif self._ahead is None:
            cursor.pending = True

    async def _drop_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    def _emptied(self, batch: Batch) -> None:
        batch.cursor.empty_to = max(batch.cursor.empty_to, batch.known)
        batch.cursor.reached = True
        if not self.caught_up.is_set() and all(cursor.reached for cursor in self._cursors.values()):
            self.caught_up.set()

    def _ready(self) -> list[Cursor]:
        now = time.monotonic()
        return [c for c in self._cursors.values() if self._waits(c) and c.patience.retry_at <= now]

    def _waits(self, cursor: Cursor) -> bool:
        """Whether a partition is to be read, now or when it is due."""
        return cursor.pending and cursor.partition.part not in self._busy()

    def _busy(self) -> Collection[int]:
        """Partitions whose last batch is still being handled, beside our reading."""
        return ()

    def _fits(self, batch: Batch) -> bool:
        """Whether a batch read ahead goes on where its partition stands now."""
        cursor = batch.cursor
        part = cursor.partition.part
        if self._cursors.get(part) is not cursor:
            return False
        due = cursor.patience.retry_at <= time.monotonic()
        if batch.after == cursor.position and due and part not in self._busy():
            return True
        cursor.pending = True
        return False

    def _read_ahead(self, batches: Sequence[Batch]) -> None:
        """Fetches on, if there is more, as if these batches had been handled."""
        more = [(batch.cursor, batch.end) for batch in batches if not batch.last]
        if more:
            current = {id(batch.cursor) for batch in batches}
            more += [(cursor, cursor.position) for cursor in self._ready() if id(cursor) not in current]
            self._ahead = asyncio.create_task(self._fetch(more), name="bus-read-ahead")

    async def _fetch(self, cursors: Sequence[tuple[Cursor, int]]) -> list[Batch]:
        known = self._link.heads
        # A partition that shrank its batches is read apart from the others, who keep theirs.
        by_limit: dict[int, list[tuple[Cursor, int]]] = {}
        for cursor, after in cursors:
            cursor.pending = False
            by_limit.setdefault(cursor.patience.limit, []).append((cursor, after))
        batches = []
        try:
            for limit, some in by_limit.items():
                found = await self._log.read(
                    {c.partition.part: after for c, after in some}, limit, self._unless_from
                )
                for cursor, after in some:
                    part = cursor.partition.part
                    read = found.get(part) or Slice([], after, 0)
                    cursor.fetched_to = max(cursor.fetched_to, read.end)
                    batches.append(
                        Batch(cursor, after, read.records, read.end, known.get(part, 0), read.looked < limit)
                    )
        except BaseException:
            for cursor, _ in cursors:
                cursor.pending = True
            raise
        return batches

    async def _sleep(self, timeout_s: float) -> None:
        """Until woken, or the first partition that was put off is due."""
        now = time.monotonic()
        due = [one.patience.retry_at - now for one in self._cursors.values() if self._waits(one)]
        self._wake.clear()
        # Not `wait_for`: up to Python 3.11 it passes over a cancellation that comes with the wake.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min([timeout_s, *due]))):
                await self._wake.wait()
