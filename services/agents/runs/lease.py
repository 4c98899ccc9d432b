"""That this process is there, said in the store every few seconds: by that, others know whose runs go on.

A process that has not said so for `lease_s`, by the clock of the database, counts as ended, and any other may
end its runs (see sweeper.py). It may still be there: stopped for a while, or cut off from the store. Nothing
harmful comes of that: whoever writes a run's end first wins, so it cannot give an answer to a run that others
have been told has failed. When it speaks again and its row is gone, it has lost its runs: it is told so
(`on_lost`), stops them, and goes on under a new identity.

Where its row is still there, late or not, it has lost nothing: nobody has ended its runs.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final
from uuid import UUID, uuid4

from services.mesh.store import Store, is_transient, unavailable

_log = logging.getLogger(__name__)

LEASE_S: Final = 10.0
HEARTBEAT_S: Final = 2.0
# After a heartbeat that did not get through, so that one gets through soon after the store is back.
_AGAIN_S: Final = 0.25

_BEGIN: Final = """
INSERT INTO processes (process_id, expires_at) VALUES ($1, clock_timestamp() + make_interval(secs => $2))
"""
# Whether it had run out. Not now(): a statement that waited for a lock says how late it is.
_RENEW: Final = """
WITH before AS (SELECT expires_at < clock_timestamp() AS late FROM processes WHERE process_id = $1)
UPDATE processes SET expires_at = clock_timestamp() + make_interval(secs => $2) WHERE process_id = $1
RETURNING (SELECT late FROM before)
"""
_END: Final = "DELETE FROM processes WHERE process_id = $1"


class Lease:
    """One per process. `begin` before the first run, `run` for as long as it serves, `end` after the last."""

    def __init__(
        self,
        database: Store,
        *,
        lease_s: float = LEASE_S,
        every_s: float = HEARTBEAT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.process_id = uuid4()
        self.lease_s = lease_s
        self._database = database
        self._every_s = every_s
        self._clock = clock
        self._lost: list[Callable[[UUID], None]] = []
        self._since = self._last = clock()

    def on_lost(self, told: Callable[[UUID], None]) -> None:
        """`told` is called with the identity whose runs are lost, after a new one has begun."""
        self._lost.append(told)

    @property
    def in_touch_s(self) -> float:
        """For how long, in seconds, this process has been there and with the store without a break.

        A lease that had run out all the same is a break, too: then the clock of the database has leapt.
        """
        now = self._clock()
        return 0.0 if now - self._last > self.lease_s / 2 else now - self._since

    async def begin(self) -> None:
        """Says for the first time that this process is there. Raises Unavailable."""
        try:
            await self._begin()
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise

    async def run(self) -> None:
        """Says so again and again, until cancelled."""
        while True:
            pause_s = await self._beat()
            await asyncio.sleep(pause_s)

    async def end(self) -> None:
        """Says that this process has no runs any more. If it cannot, the lease runs out."""
        try:
            await self._database.pool.execute(_END, self.process_id, timeout=self.lease_s / 2)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("the end of this process is not recorded: %s", type(error).__name__)

    async def _beat(self) -> float:
        """Seconds until the next one."""
        try:
            late: bool | None = await self._database.pool.fetchval(
                _RENEW, self.process_id, self.lease_s, timeout=self.lease_s / 2
            )
            if late is None:
                await self._anew()
            else:
                self._touched(late=late)
        except Exception as error:
            if not is_transient(error):
                raise
            _log.warning("cannot say that this process is there: %s", type(error).__name__)
            return min(_AGAIN_S, self._every_s)
        return self._every_s

    async def _anew(self) -> None:
        lost, self.process_id = self.process_id, uuid4()
        _log.error("this process was away for more than %g s and has lost its runs", self.lease_s)
        try:
            await self._begin()
        finally:
            for told in self._lost:
                told(lost)

    async def _begin(self) -> None:
        await self._database.pool.execute(_BEGIN, self.process_id, self.lease_s, timeout=self.lease_s / 2)
        self._touched()

    def _touched(self, *, late: bool = False) -> None:
        now = self._clock()
        if late or now - self._last > self.lease_s / 2:
            self._since = now
        self._last = now
