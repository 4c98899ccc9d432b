"""The days of outcomes: their partitions are made ahead, and go when they have been kept long enough.

Signals go with them, by their own time: they are few, and what they raised is kept as an alert.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Final

import asyncpg

from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

EVERY_S: Final = 600.0
# Ids forgotten per transaction: long enough to be quick, short enough not to be in anybody's way.
_CHUNK: Final = 5_000
_PREFIX: Final = "outcomes_"

_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('feedback.outcomes'), 1)"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtext('feedback.outcomes'), 1)"
# Attached, half detached (a process died at it) or detached and not yet dropped.
_DAYS: Final = """
SELECT c.relname AS name, i.inhrelid IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
  AND c.relname ~ '^outcomes_[0-9]{8}$'
ORDER BY c.relname
"""
_IDS: Final = "SELECT number, id FROM {name} WHERE number > $1 ORDER BY number LIMIT $2"
_FORGET: Final = """
DELETE FROM outcome_ids i USING unnest($1::text[], $2::bigint[]) AS gone (id, number)
WHERE i.id = gone.id AND i.number = gone.number
"""
# Numbers follow the order of arrival: where the oldest are kept, so are the rest.
_OLD_SIGNALS: Final = """
DELETE FROM signals WHERE at < $1 AND number IN (SELECT number FROM signals ORDER BY number LIMIT $2)
"""


class Days:
    """Keeps the partitions of today and tomorrow ready, and drops those of days older than `keep_days`.

    `clock` stands in for the database's.
    """

    def __init__(
        self, pool: asyncpg.Pool, keep_days: int, clock: Callable[[], datetime] | None = None
    ) -> None:
        self._pool = pool
        self._keep = timedelta(days=keep_days)
        self._clock = clock

    async def run(self) -> None:
        """Works now and every ten minutes, until cancelled."""
        while True:
            try:
                await self.ahead()
                await self.discard()
                await self.forget_signals()
            except Exception as error:
                if not is_transient(error):
                    _log.exception("the days of outcomes could not be kept; it is tried again")
            await asyncio.sleep(EVERY_S)

    async def ahead(self) -> None:
        """Makes the partitions of today and tomorrow."""
        today = await self._today()
        for day in (today, today + timedelta(days=1)):
            await self._pool.execute("SELECT make_outcomes_of($1)", day)

    async def discard(self) -> int:
        """Drops what has been kept long enough, and forgets its ids; how many days went.

        0 as well if another process is at it. A dead one's work is gone on with.
        """
        newest = await self._today() - self._keep
        async with self._pool.acquire() as connection:
            if not await connection.fetchval(_LOCK):
                return 0
            try:
                gone = 0
                for name, attached, pending in await connection.fetch(_DAYS):
                    if _day(name) >= newest:
                        continue
                    # Without a lock that readers and writers of other days would wait for.
                    if attached:
                        how = "FINALIZE" if pending else "CONCURRENTLY"
                        await connection.execute(
                            f"ALTER TABLE outcomes DETACH PARTITION {name} {how}", timeout=600
                        )
                    await self._forget(connection, name)
                    await connection.execute(f"DROP TABLE {name}")
                    _log.info("outcomes of %s were kept for %d days", _day(name), self._keep.days)
                    gone += 1
                return gone
            finally:
                if not connection.is_closed():
                    await connection.execute(_UNLOCK)

    async def forget_signals(self) -> int:
        """Deletes signals older than outcomes are kept; how many."""
        today = await self._today()
        before = datetime(today.year, today.month, today.day, tzinfo=UTC) - self._keep
        gone = 0
        while True:
            deleted = int((await self._pool.execute(_OLD_SIGNALS, before, _CHUNK)).rpartition(" ")[2])
            gone += deleted
            if deleted < _CHUNK:
                return gone

    async def _forget(self, connection: asyncpg.Connection, name: str) -> None:
        after = 0
        while True:
            rows = await connection.fetch(_IDS.format(name=name), after, _CHUNK)
            if not rows:
                return
            after = rows[-1]["number"]
            await connection.execute(_FORGET, [row["id"] for row in rows], [row["number"] for row in rows])

    async def _today(self) -> date:
        now = self._clock() if self._clock is not None else await self._pool.fetchval("SELECT now()")
        today: date = now.astimezone(UTC).date()
        return today


def _day(name: str) -> date:
    return datetime.strptime(name.removeprefix(_PREFIX), "%Y%m%d").replace(tzinfo=UTC).date()
