"""Forgets what is over for long: orders, what belongs to them, and devices that have fallen silent."""

import asyncio
import logging
from datetime import timedelta
from typing import Final

from services.mesh.store import Store
from services.route import store_plans

_log = logging.getLogger(__name__)

_EVERY_S: Final = 3600.0
# Rows per transaction: others wait for these rows only as long as it takes to remove this many.
_AT_ONCE: Final = 1000


class Housekeeping:
    """Once an hour removes what has not changed for `keep` and will not change any more."""

    def __init__(self, database: Store, *, keep: timedelta) -> None:
        self._database = database
        self._keep = keep

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self.clean()
            await asyncio.sleep(_EVERY_S)

    async def clean(self) -> int:
        """Removes what is due; how many orders that were."""
        removed = 0
        while True:
            async with self._database.transaction() as conn:
                count = await store_plans.forget_orders(conn, self._keep, _AT_ONCE)
            removed += count
            if count < _AT_ONCE:
                break
        async with self._database.transaction() as conn:
            await store_plans.forget_positions(conn, self._keep)
        if removed:
            _log.info("%d orders that are over were removed", removed)
        return removed
