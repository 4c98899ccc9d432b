"""Writes that arrive while another is under way go into the next transaction together.

A commit costs a flush to disk, however much it holds. One caller at a time pays nothing for this; a
hundred at once share a handful of commits.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Entry(Generic[Item, Result]):
    items: Sequence[Item]
    done: "asyncio.Future[Sequence[Result]]"


class GroupWriter(Generic[Item, Result]):
    """Hands groups of items to `write`, which makes them durable in one transaction and answers item by
    item."""

    def __init__(
        self, write: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]], *, max_items: int = 1000
    ) -> None:
        self._write = write
        self._max_items = max_items
        self._waiting: list[_Entry[Item, Result]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, items: Sequence[Item]) -> Sequence[Result]:
        """The results of these items, once they are durable; raises what `write` raises.

        A caller who goes away does not stop the write: others may share it, and a repeat finds a duplicate.
        """
        entry = _Entry[Item, Result](items, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        if self._worker is None:
            # Not in the context of one of the callers: neither its deadline nor its trace is the group's.
            self._worker = asyncio.create_task(self._drain(), context=contextvars.Context())
        return await entry.done

    async def close(self) -> None:
        """Waits for the writes under way."""
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group: list[_Entry[Item, Result]] = []
                size = 0
                while self._waiting and (not group or size + len(self._waiting[0].items) <= self._max_items):
                    entry = self._waiting.pop(0)
                    size += len(entry.items)
                    group.append(entry)
                await self._write_group(group)
        finally:
            self._worker = None
            for entry in self._waiting:
                entry.done.cancel()
            self._waiting.clear()

    async def _write_group(self, group: list[_Entry[Item, Result]]) -> None:
        try:
            results = await self._write([item for entry in group for item in entry.items])
        except asyncio.CancelledError:
            for entry in group:
                entry.done.cancel()
            raise
        except Exception as error:
            if len(group) == 1:
                if not group[0].done.done():
                    group[0].done.set_exception(error)
                return
            # Whoever is at fault fails alone.
            for entry in group:
                await self._write_group([entry])
            return
        place = 0
        for entry in group:
            if not entry.done.done():
                entry.done.set_result(results[place : place + len(entry.items)])
            place += len(entry.items)
