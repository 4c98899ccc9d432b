"""A response stream as a coroutine that writes.

So a cancellation arrives inside the links, while one that met grpc between two items of a generator would
leave the generator, and the links in it, to the garbage collector.
"""

import asyncio
from contextlib import aclosing
from typing import Any

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_DRAINING

from services.mesh import errors
from services.mesh.chain.server.call import Outgoing


class ResponseStream:
    """One stream under way, in the task that made it."""

    __slots__ = ("_context", "_ending", "_outgoing", "_task", "_writing", "path")

    def __init__(self, path: str, context: Any, outgoing: Outgoing | None = None) -> None:
        self.path = path
        self._context = context
        self._outgoing = outgoing
        self._task = asyncio.current_task()
        self._writing = False
        self._ending = False

    def end(self) -> None:
        """Ends the stream with UNAVAILABLE (DRAINING) after the message that is being written, if one is.

        A write that is cancelled is still under way in core, which then takes no status.
        """
        self._ending = True
        if not self._writing and self._task is not None:
            self._task.cancel()

    async def run(self, responses: Any) -> None:
        """Writes what the handler gives: an async iterator, or a coroutine that calls context.write()."""
        try:
            if hasattr(responses, "__aiter__"):
                async with aclosing(responses):
                    async for response in responses:
                        if self._outgoing is not None:
                            response = self._outgoing(response)
                        self._writing = True
                        await self._context.write(response)
                        self._writing = False
                        if self._ending:
                            raise _draining()
            elif self._outgoing is not None:
                responses.close()
                raise TypeError(f"{self.path} writes past what is done to its responses")
            else:
                await responses
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task as well; that one must not be swallowed.
            if not self._ending or self._writing or self._task is None or self._task.uncancel() > 0:
                raise
            raise _draining() from None


def _draining() -> errors.Unavailable:
    return errors.Unavailable(
        "the server is on its way out",
        reason=ERROR_REASON_DRAINING,
        retry_after_s=errors.DEFAULT_RETRY_AFTER_S,
    )
