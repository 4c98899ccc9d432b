"""Ends the runs of processes that have gone, in every process: whoever comes first.

A process counts as gone when its lease has run out by the clock of the database (see lease.py). Its row goes
first; from then on its runs belong to nobody, and runs that belong to nobody end as RUN_INTERRUPTED. Budgets
that it had set aside are charged in full: whether the provider will bill is not known. Both are done by what
is found, not by what was deleted, so a sweeper that dies half way leaves the rest to the next.

Who cannot reach the store cannot renew its lease, though it is alive. If the store was away for everybody,
all leases have run out when it comes back; so nobody ends the runs of others before it has itself been in
touch with the store for the length of a lease without a break, in which all who are alive have spoken again.
The same holds when the clock of the database leaps and all leases seem to have run out, its own as well.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from services.agents.runs.lease import HEARTBEAT_S, Lease
from services.agents.runs.record import error_bytes, interrupted
from services.mesh.store import Store, is_transient

_log = logging.getLogger(__name__)

_BATCH: Final = 500

# Only while its own has not: if that has run out, too, the clock of the database has leapt.
_EXPIRED: Final = """
DELETE FROM processes WHERE expires_at < clock_timestamp()
  AND EXISTS (SELECT FROM processes WHERE process_id = $1 AND expires_at > clock_timestamp())
RETURNING process_id
"""
_ORPHANS: Final = """
SELECT id, run_id FROM runs r
WHERE status = 1 AND NOT EXISTS (SELECT FROM processes p WHERE p.process_id = r.process_id)
ORDER BY id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
"""
_INTERRUPT: Final = """
UPDATE runs r SET status = 3, ended_at = now(), ended_by = $1, error = g.error
FROM unnest($2::uuid[], $3::bytea[]) AS g (id, error) WHERE r.id = g.id AND r.status = 1
"""

# Charges what processes that have gone had set aside, up to so many at once; how many there were.
Charge = Callable[[int], Awaitable[int]]


class Sweeper:
    """One per process. `charge` books what processes that have gone had set aside."""

    def __init__(
        self, database: Store, lease: Lease, *, charge: Charge | None = None, every_s: float = HEARTBEAT_S
    ) -> None:
        self._database = database
        self._lease = lease
        self._charge = charge
        self._every_s = every_s

    async def run(self) -> None:
        """Sweeps again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.sweep()
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("runs of processes that have gone wait for the store: %s", type(error).__name__)

    async def sweep(self) -> int:
        """Ends what is to be ended; how many runs. Nothing before this process has been in touch long enough.

        Raises Unavailable.
        """
        if self._lease.in_touch_s < self._lease.lease_s:
            return 0
        async with self._database.transaction() as connection:
            gone = await connection.fetch(_EXPIRED, self._lease.process_id)
        if gone:
            _log.warning("%d processes have gone without a word", len(gone))
        ended = 0
        while (done := await self._interrupt()) > 0:
            ended += done
        if ended:
            _log.warning("%d runs ended because their processes have gone", ended)
        if self._charge is not None:
            while await self._charge(_BATCH) >= _BATCH:
                pass
        return ended

    async def _interrupt(self) -> int:
        async with self._database.transaction() as connection:
            orphans = await connection.fetch(_ORPHANS, _BATCH)
            if orphans:
                errors = [error_bytes(interrupted(row["run_id"])) for row in orphans]
                ids = [row["id"] for row in orphans]
                await connection.execute(_INTERRUPT, self._lease.process_id, ids, errors)
        return len(orphans)
