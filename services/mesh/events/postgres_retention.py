"""Deletes what has been kept long enough, and on compacted topics what is not the newest of its key."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

import asyncpg

from services.mesh.store.failures import is_transient

_log = logging.getLogger(__name__)

EVERY_S: Final = 30.0
# Events per transaction: long enough to be quick, short enough not to be in anybody's way.
_CHUNK: Final = 5000
_LEAST_TO_COMPACT: Final = 1000

_SEEN: Final = "UPDATE bus.groups SET seen = now() WHERE name IN (SELECT group_name FROM bus.members)"
_PARTITIONS: Final = """
SELECT p.part, t.compacted, t.retention FROM bus.partitions p JOIN bus.topics t ON t.name = p.topic
ORDER BY p.part
"""
_LOCK: Final = "SELECT pg_try_advisory_lock(hashtext('bus.retention'))"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtext('bus.retention'))"


class Retention:
    """One process at a time does the work, whichever takes the lock."""

    def __init__(self, pool: asyncpg.Pool, least_to_compact: int = _LEAST_TO_COMPACT) -> None:
        self._pool = pool
        self._least_to_compact = least_to_compact

    async def run(self) -> None:
        """Works every 30 s until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.once()
            except Exception as error:
                if not is_transient(error):
                    _log.exception("retention failed; it is tried again")

    async def once(self) -> int:
        """Goes over all partitions once; how many events were deleted. 0 if another process is at it."""
        async with self._pool.acquire() as connection:
            if not await connection.fetchval(_LOCK):
                return 0
            try:
                await connection.execute(_SEEN)
                gone = 0
                for row in await connection.fetch(_PARTITIONS):
                    if row["compacted"]:
                        gone += await self._compact(connection, row["part"])
                    if row["retention"] is not None:
                        gone += await self._discard(connection, row["part"], row["retention"])
                return gone
            finally:
                if not connection.is_closed():
                    await connection.execute(_UNLOCK)

    async def _compact(self, connection: asyncpg.Connection, part: int) -> int:
        return int(await connection.fetchval("SELECT bus.compact($1, $2)", part, self._least_to_compact))

    async def _discard(self, connection: asyncpg.Connection, part: int, retention: timedelta) -> int:
        total = 0
        while True:
            gone = int(
                await connection.fetchval(
                    "SELECT bus.discard($1, now() - $2::interval, $3)", part, retention, _CHUNK
                )
            )
            total += gone
            if gone < _CHUNK:
                return total
            await asyncio.sleep(0)
