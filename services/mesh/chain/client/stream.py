"""A call whose response is a stream: the links run when it starts and once when it ends, however it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc

from services.mesh.chain.client.call import ClientCall


class Links(Protocol):
    """The links of the chain around a stream."""

    def enter(self, call: ClientCall) -> BaseException | None: ...

    def leave(self, call: ClientCall, error: BaseException | None) -> BaseException | None: ...


class StreamCall:
    """Iterate over it, or `read()`; a two-way stream without an iterator takes `write` and `done_writing`.

    Errors are MeshErrors. Streams are not retried: whoever reads resumes from its cursor.
    """

    def __init__(
        self,
        call: ClientCall,
        start: Callable[[], Any],
        links: Links,
        answered: Callable[[ClientCall], None],
        ended: Callable[[], None],
    ) -> None:
        """`ended` is called once, when nothing more goes over the call's connection."""
        self._call = call
        self._links = links
        self._answered = answered
        self._on_end = ended
        self._ended = False
        self._raw: Any = None
        self._messages: AsyncIterator[Any] | None = None
        # A stub's call does not raise; reading from it does.
        self._refused = links.enter(call)
        if self._refused is not None:
            self._ended = True
            ended()
            return
        try:
            self._raw = start()
        except BaseException as error:
            self._end(error)
            raise
        self._messages = aiter(self._raw)

    def __aiter__(self) -> "StreamCall":
        return self

    async def __anext__(self) -> Any:
        if self._messages is None:
            raise self._refusal()
        try:
            message = await anext(self._messages)
        except StopAsyncIteration:
            self._end(None)
            raise
        except asyncio.CancelledError as error:
            self._raw.cancel()
            self._end(error)
            raise
        except BaseException as error:
            typed = self._end(error)
            if typed is error or typed is None:
                raise
            raise typed from error
        call = self._call
        if not call.answered:
            call.answered = True
            self._answered(call)
        return message

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF."""
        try:
            return await anext(self)
        except StopAsyncIteration:
            return grpc.aio.EOF

    async def write(self, request: Any) -> None:
        """Sends a message of the request stream."""
        if self._raw is None:
            raise self._refusal()
        try:
            await self._raw.write(request)
        except asyncio.InvalidStateError:
            # The stream has ended; why, the next read says.
            await anext(self)
            raise

    async def done_writing(self) -> None:
        """Ends the request stream."""
        if self._raw is None:
            raise self._refusal()
        await self._raw.done_writing()

    def cancel(self) -> bool:
        """Ends the call; False if it has ended already."""
        if self._raw is None or self._ended:
            return False
        cancelled = bool(self._raw.cancel())
        self._end(asyncio.CancelledError())
        return cancelled

    def done(self) -> bool:
        """Whether the stream has ended."""
        return self._ended

    async def aclose(self) -> None:
        """As `cancel`, so that `contextlib.aclosing` takes a stream."""
        self.cancel()

    def __del__(self) -> None:
        if not self._ended and self._raw is not None:
            self._end(asyncio.CancelledError())

    def _refusal(self) -> BaseException:
        return self._refused or grpc.aio.UsageError("the stream could not be started")

    def _end(self, error: BaseException | None) -> BaseException | None:
        if self._ended:
            return error
        self._ended = True
        self._on_end()
        return self._links.leave(self._call, error)
