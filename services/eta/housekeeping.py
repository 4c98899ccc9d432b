"""Forgets what is past its time, and keeps the record of processed fixes compact."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from services.eta.store import EtaStore

log = logging.getLogger(__name__)

_EVERY_S: Final = 60.0


class Housekeeping:
    """Background task."""

    def __init__(
        self,
        store: EtaStore,
        *,
        partitions: Callable[[], Sequence[int]],
        seen: timedelta,
        seen_fixes: int,
        predictions: timedelta,
    ) -> None:
        self._store = store
        self._partitions = partitions
        self._seen = seen
        self._seen_fixes = seen_fixes
        self._predictions = predictions

    async def run(self) -> None:
        """Tidy for ever."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self.tidy()

    async def tidy(self) -> None:
        """Tidy once."""
        for partition in self._partitions():
            await self._store.merge_seen(partition)
        await self._store.forget(
            seen=self._seen,
            # What a process remembers, and as much again.
            seen_fixes=2 * self._seen_fixes,
            predictions=self._predictions,
        )
