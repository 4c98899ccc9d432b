"""Predictions as they are made, from any place in their log on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Final

from services.eta.store import EtaStore, StoredPrediction
from services.mesh import cursors
from services.mesh.store import is_transient

log = logging.getLogger(__name__)

_PAGE: Final = 500
# How often the head of the log is looked at while somebody watches.
_LOOK_S: Final = 0.05
_AWAY_S: Final = 0.5
_PREFIX: Final = "eta-"


def cursor_of(seq: int) -> str:
    """The cursor behind the prediction with this number."""
    return f"{_PREFIX}{seq}"


class PredictionWatch:
    """Follows the log of predictions for any number of watchers with one look at its head."""

    def __init__(self, store: EtaStore) -> None:
        self._store = store
        self._head = 0
        self._watchers = 0
        self._moved = asyncio.Condition()
        self._looker: asyncio.Task[None] | None = None

    async def start_of(self, cursor: str) -> int:
        """Number behind which to go on.

        Raises InvalidArgument for a cursor that is not one of ours, OutOfRange for one too old or ahead.
        """
        newest = await self._store.newest_prediction()
        if not cursor:
            return newest
        digits = cursor.removeprefix(_PREFIX)
        if not (cursor.startswith(_PREFIX) and digits.isascii() and digits.isdigit() and len(digits) < 19):
            raise cursors.not_ours(cursor)
        seq = int(digits)
        if not await self._store.oldest_prediction() - 1 <= seq <= newest:
            raise cursors.not_kept(cursor)
        return seq

    async def follow(
        self, seq: int, tenant: str, order_ids: Sequence[str]
    ) -> AsyncIterator[StoredPrediction]:
        """Every prediction behind `seq`, of these orders or of all of the tenant, without end."""
        wanted = list(order_ids) or None
        self._watchers += 1
        try:
            if self._looker is None:
                self._looker = asyncio.create_task(self._look(), name="head of predictions")
            while True:
                head = await self._head_behind(seq)
                while True:
                    page = await self._store.predictions_after(seq, tenant, wanted, _PAGE)
                    for one in page:
                        yield one
                        seq = one.seq
                    if len(page) < _PAGE:
                        break
                # What a filter left out lies behind as well.
                seq = max(seq, head)
        finally:
            self._watchers -= 1
            if not self._watchers and self._looker is not None:
                self._looker.cancel()
                self._looker = None

    async def _head_behind(self, seq: int) -> int:
        async with self._moved:
            await self._moved.wait_for(lambda: self._head > seq)
            return self._head

    async def _look(self) -> None:
        while True:
            try:
                head = await self._store.newest_prediction()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("watchers wait for the store: %s", type(error).__name__)
                await asyncio.sleep(_AWAY_S)
                continue
            if head != self._head:
                async with self._moved:
                    self._head = head
                    self._moved.notify_all()
            await asyncio.sleep(_LOOK_S)
