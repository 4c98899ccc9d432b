"""What became of an event: whether it is durable, as far as anybody knows yet."""

import asyncio
from collections.abc import Generator
from typing import Any

from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent


class Receipt:
    """`await` it for True once the event is durable, in the store or in the spool, or False if it is lost.

    Nobody has to. Any number may wait, and give up waiting, which changes nothing.
    """

    __slots__ = ("_waiting", "durable", "event", "size")

    def __init__(self, event: OutcomeEvent, size: int = 0) -> None:
        self.event = event
        self.size = size
        self.durable: bool | None = None
        self._waiting: list[asyncio.Future[bool]] | None = None

    def settle(self, durable: bool) -> None:
        """Says what became of it, once. From the loop's thread."""
        if self.durable is not None:
            return
        self.durable = durable
        waiting, self._waiting = self._waiting, None
        for one in waiting or ():
            if not one.done():
                one.set_result(durable)

    def __await__(self) -> Generator[Any, None, bool]:
        if self.durable is not None:
            return self.durable
        waiter: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(waiter)
        return (yield from waiter)
