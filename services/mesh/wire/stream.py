"""One call under way: what has come of its answer, and what it comes to."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from grpc.aio import AioRpcError

from services.mesh.wire import failures, frames

_KIND: Final = b"application/grpc"
# What may follow that: application/grpc-web is something else.
_AFTER_KIND: Final = (b"", b"+", b";")


class Stream:
    """`done` gets the response's bytes, an AioRpcError or an UnprocessedError."""

    __slots__ = ("_limit", "_reset", "body", "done", "headed", "number", "rest", "until", "window")

    def __init__(
        self, number: int, done: "asyncio.Future[bytes]", limit: int, reset: "Callable[[Stream], None]"
    ) -> None:
        self.number = number
        self.done = done
        self._limit = limit
        self._reset = reset
        self.headed = False
        # What has come of the response, the message's prefix included.
        self.body: bytes | bytearray = b""
        # What is still to be sent, and how much of it the peer takes now.
        self.rest: memoryview | None = None
        self.window = 0
        # Monotonic time at which the time granted has passed.
        self.until: float | None = None

    # --- from our side ----------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Ends the call on our side alone."""
        if not self.done.done():
            self.done.set_exception(error)

    def cancel(self) -> None:
        """Tells the peer that nobody waits any more."""
        self._reset(self)

    def late(self) -> None:
        """The time granted has passed."""
        self._reset(self)
        self.fail(failures.late())

    # --- from the peer's --------------------------------------------------------------------------

    def on_data(self, data: bytes) -> AioRpcError | None:
        """Takes a piece of the response in; why the call is over, if it is now."""
        if not self.headed:
            return failures.broken("a response before its headers")
        if not self.body:
            self.body = data
        else:
            if type(self.body) is bytes:
                self.body = bytearray(self.body)
            self.body += data
        if len(self.body) >= 5:
            length = int.from_bytes(self.body[1:5])
            if length > self._limit:
                return failures.too_large("Received", length, self._limit)
            if len(self.body) > length + 5:
                return failures.broken("more than one response")
        return None

    def on_headers(self, found: Mapping[str, bytes], last: int) -> AioRpcError | None:
        """Takes headers in, or with `last` trailers; why the call is over, if it failed now."""
        if self.headed:
            return self._outcome(found) if last else failures.broken("headers amid an answer")
        status = found.get(":status", b"")
        kind = found.get("content-type", b"")
        if status != b"200" or kind[:16] != _KIND or kind[16:17] not in _AFTER_KIND:
            if status[:1] == b"1" and not last:
                return None  # only news on the way
            if "grpc-status" not in found:
                return failures.not_grpc(found)
        self.headed = True
        return self._outcome(found) if last else None

    def on_reset(self, code: int) -> None:
        """The peer has ended the call without a status."""
        if code == frames.REFUSED_STREAM:
            self.fail(failures.UnprocessedError("the peer has refused it", refused=True))
        elif code == frames.CANCEL and self.until is not None and time.monotonic() >= self.until:
            self.fail(failures.late())  # its clock was a little ahead of our timer
        else:
            self.fail(failures.reset(code))

    def _outcome(self, trailers: Mapping[str, bytes]) -> AioRpcError | None:
        if trailers.get("grpc-status") != b"0":
            return failures.of_trailers(trailers)
        body = self.body
        if len(body) < 5 or len(body) != int.from_bytes(body[1:5]) + 5:
            return failures.broken("an answer without a whole response")
        if body[0]:
            return failures.broken("a compressed response, which was not asked for")
        if not self.done.done():
            self.done.set_result(body[5:] if type(body) is bytes else bytes(memoryview(body)[5:]))
        return None
