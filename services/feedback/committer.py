"""Group commit: what arrives while a transaction runs goes together into the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

Commit = Callable[[Sequence[T]], Awaitable[Sequence[R]]]


class Committer(Generic[T, R]):
    """Calls `commit` with the items of several callers and gives each caller its own results.

    One commit runs at a time; `max_items` bounds its size (one caller's items are never split). If it
    fails, all callers in it get the error. A caller that gives up does not disturb the others.
    """

    def __init__(self, commit: Commit[T, R], *, max_items: int = 5_000) -> None:
        self._commit = commit
        self._max_items = max_items
        self._waiting: list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]] = []
        self._running: asyncio.Task[None] | None = None

    async def add(self, items: Sequence[T]) -> Sequence[R]:
        """The results for these items, once they are durable."""
        future: asyncio.Future[Sequence[R]] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="group commit")
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._one()
        finally:
            self._running = None
            if self._waiting:  # added after the last look
                self._running = asyncio.create_task(self._run(), name="group commit")

    async def _one(self) -> None:
        batch: list[tuple[Sequence[T], asyncio.Future[Sequence[R]]]] = []
        total = 0
        while self._waiting and (not batch or total + len(self._waiting[0][0]) <= self._max_items):
            items, future = self._waiting.pop(0)
            if future.done():  # its caller has given up before anything was written
                continue
            batch.append((items, future))
            total += len(items)
        try:
            results = await self._commit([item for items, _ in batch for item in items]) if batch else []
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        at = 0
        for items, future in batch:
            if not future.done():
                future.set_result(results[at : at + len(items)])
            at += len(items)
