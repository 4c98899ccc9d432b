"""Group commit: what arrives while a transaction runs goes together into the next one.

A commit costs a flush to disk, however much it holds. One caller at a time pays nothing for this; a hundred
at once share a handful of commits.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import asyncpg

from services.mesh import deadline
from services.mesh.errors import DEFAULT_RETRY_AFTER_S, Unavailable
from services.mesh.store.failures import is_transient, unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Transaction = Callable[[], AbstractAsyncContextManager[asyncpg.Connection]]
Write = Callable[[asyncpg.Connection, Sequence[Item]], Awaitable[Sequence[Result]]]

_log: Final = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Entry(Generic[Item, Result]):
    """One caller's items. `answer` is cancelled when the caller goes away."""

    items: Sequence[Item]
    answer: "asyncio.Future[Sequence[Result]]"


class GroupCommit(Generic[Item, Result]):
    """Hands the items of several callers to `write` in one transaction; each caller gets its own results.

    `write` gives one result per item, in their order; it may be called again with part of what it was given,
    after everything it did has been rolled back. One transaction runs at a time. `max_items` bounds its size,
    but one caller's items are never split. Nothing of a caller's context (deadline, request id, trace) is
    there in `write`: what is to travel with an item must be in the item.
    """

    def __init__(
        self, transaction: Transaction, write: Write[Item, Result], *, max_items: int = 1000
    ) -> None:
        self._transaction = transaction
        self._write = write
        self._max_items = max_items
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def add(self, items: Sequence[Item]) -> Sequence[Result]:
        """The results of these items, once they are durable.

        Raises what `write` raises for them alone, Unavailable if the store does not answer, and
        DeadlineExceeded once the caller's budget is used up. Who gives up before the transaction began has
        written nothing; later, the items may be durable all the same, and a repeat finds them.
        """
        if not items:
            return ()
        left_s = deadline.remaining()
        if left_s is not None and left_s <= 0:
            raise deadline.passed()
        entry = _Entry[Item, Result](items, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._worker is None:
            # Not in the context of one of the callers: neither its deadline nor its trace is the group's.
            self._worker = asyncio.create_task(
                self._drain(), name="group commit", context=contextvars.Context()
            )
        if left_s is None:
            return await entry.answer
        try:
            async with asyncio.timeout(left_s) as limit:
                return await entry.answer
        except TimeoutError:
            if limit.expired():
                raise deadline.passed() from None
            raise  # it is the store's

    async def close(self) -> None:
        """Waits until nothing waits any more."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._commit_group(self._next_group())
        finally:
            self._worker = None
            for entry in self._waiting:  # only if this task was cancelled
                entry.answer.cancel()
            self._waiting.clear()

    def _next_group(self) -> list[_Entry[Item, Result]]:
        group: list[_Entry[Item, Result]] = []
        size = 0
        while self._waiting and (not group or size + len(self._waiting[0].items) <= self._max_items):
            entry = self._waiting.popleft()
            if not entry.answer.done():  # else its caller has gone before anything was written
                group.append(entry)
                size += len(entry.items)
        return group

    async def _commit_group(self, group: list[_Entry[Item, Result]]) -> None:
        """Answers every entry. What fails for a reason of its own is halved until the guilty stand alone: the
        others succeed, in the order in which they came."""
        left = [group]
        while left:
            part = [entry for entry in left.pop() if not entry.answer.done()]
            if not part:
                continue
            try:
                results = await self._commit([item for entry in part for item in entry.items])
            except asyncio.CancelledError:
                for entry in (*part, *(entry for other in left for entry in other)):
                    entry.answer.cancel()
                raise
            except Exception as error:
                if is_transient(error):
                    # Nobody is at fault, and the others would only wait to hear the same.
                    _tell(unavailable(error), (*part, *(entry for other in left for entry in other)))
                    return
                if len(part) == 1:
                    _fail(part[0], error)
                else:
                    _log.warning("of %d callers in a commit, some are at fault", len(part))
                    half = len(part) // 2
                    left += [part[half:], part[:half]]
            else:
                place = 0
                for entry in part:
                    if not entry.answer.done():
                        entry.answer.set_result(results[place : place + len(entry.items)])
                    place += len(entry.items)

    async def _commit(self, items: Sequence[Item]) -> Sequence[Result]:
        async with self._transaction() as connection:
            results = await self._write(connection, items)
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return results


def _fail(entry: _Entry[Item, Result], error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)


def _tell(error: Unavailable, entries: Sequence[_Entry[Item, Result]]) -> None:
    """Fails them all, each with an error of its own: raising one adds to its traceback."""
    retry_after_s = DEFAULT_RETRY_AFTER_S if error.retry_after_s is None else error.retry_after_s
    for entry in entries:
        own = Unavailable(
            error.message, reason=error.reason, metadata=error.metadata, retry_after_s=retry_after_s
        )
        own.__cause__ = error
        _fail(entry, own)
