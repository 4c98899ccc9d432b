"""Deletes runs that were kept long enough, a few at a time so that nobody waits for it."""

import asyncio
import logging
from typing import Final

from services.agents.runs.store import RunStore
from services.mesh.store import is_transient

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_PAUSE_S: Final = 0.1
_EVERY_S: Final = 600.0


class Retention:
    """One per process; several do no harm. `days`: how long after it was accepted a run is kept."""

    def __init__(self, store: RunStore, days: float) -> None:
        self._store = store
        self._days = days

    async def run(self) -> None:
        """Deletes now and then, until cancelled."""
        while True:
            try:
                await self.discard()
            except Exception as error:
                if not is_transient(error):
                    raise
                _log.warning("old runs wait for the store: %s", type(error).__name__)
            await asyncio.sleep(_EVERY_S)

    async def discard(self) -> int:
        """Deletes all that were kept long enough; how many. Raises Unavailable."""
        gone = 0
        while (batch := await self._store.discard(self._days, _BATCH)) > 0:
            gone += batch
            await asyncio.sleep(_PAUSE_S)
        return gone
