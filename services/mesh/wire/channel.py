"""The calls to one target: each goes to the connection whose turn it is, or waits its own turn."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import grpc

from services.mesh.wire import failures, headers
from services.mesh.wire.connection import Connection
from services.mesh.wire.links import ATTEMPT_S, Address, Context, Links, address_of, authority_of
from services.mesh.wire.stream import Stream
from services.mesh.wire.unary import Begin, Unary

__all__ = ["WireChannel", "address_of"]

Request = TypeVar("Request")
Response = TypeVar("Response")


class WireChannel:
    """Not for other threads than the loop's. An attempt to connect may take `attempt_s`, later ones more."""

    def __init__(
        self,
        target: str,
        address: Address,
        *,
        max_message_bytes: int,
        attempt_s: float = ATTEMPT_S,
        tls: Context | None = None,
    ) -> None:
        """With `tls`, each attempt to connect uses what it gives then."""
        self.target = target
        self._max_message = max_message_bytes
        self._links = Links(target, address, max_message_bytes, attempt_s, self._serve, tls)
        self._ready = self._links.ready
        self._turn = 0
        # Calls that no connection has room for, in the order in which they came.
        self._waiting: dict[asyncio.Future[Stream], Begin] = {}

    def unary(
        self,
        path: str,
        serializer: Callable[[Request], bytes],
        deserializer: Callable[[bytes], Response],
    ) -> Unary[Request, Response]:
        """The callable of one method."""
        head = headers.request_head(path, authority_of(self.target))
        return Unary(self.pick, self.turn, head, serializer, deserializer, self._max_message)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As grpc.aio's, but for `try_to_connect` after a failure, which may try again."""
        if self._links.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._ready:
            return grpc.ChannelConnectivity.READY
        if self._links.failure is not None:
            if try_to_connect:
                self._links.connect()
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if self._links.connecting:
            return grpc.ChannelConnectivity.CONNECTING
        if try_to_connect:
            self._links.connect()
        return grpc.ChannelConnectivity.IDLE

    def expect(self) -> None:
        """Somebody has seen the target alive: calls wait for the next attempt, which is made at once."""
        self._links.expect()

    def renew(self) -> None:
        """Calls go by new connections as soon as there are any; the present ones end once theirs have."""
        self._links.renew()

    async def close(self) -> None:
        """Ends all calls and connections."""
        await self._links.close()

    def pick(self) -> Connection | None:
        """The connection whose turn it is; None if there is none, or all are full."""
        ready = self._ready
        if len(ready) == 1:
            return None if ready[0].full else ready[0]
        for _ in ready:
            self._turn = (self._turn + 1) % len(ready)
            if not ready[self._turn].full:
                return ready[self._turn]
        return None

    async def turn(self, begin: Begin, timeout: float | None) -> Stream:
        """The call that `begin` begins as soon as it can. Raises AioRpcError if it cannot."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Stream] = loop.create_future()
        self._waiting[waiter] = begin
        timer = None if timeout is None else loop.call_later(timeout, self._refuse, waiter, failures.late)
        self._links.connect()
        self._serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            self._waiting.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().cancel()  # begun in the very moment in which its caller went
            raise
        finally:
            if timer is not None:
                timer.cancel()
            del waiter  # an error in it holds this frame

    def _serve(self) -> None:
        """Begins the calls that wait, as far as there is room; without hope for any, ends them."""
        while self._waiting:
            waiter = next(iter(self._waiting))
            connection = self.pick()
            if connection is not None:
                begin = self._waiting.pop(waiter)
                if not waiter.done():
                    waiter.set_result(begin(connection))
            elif self._links.closed:
                self._refuse(waiter, failures.closed)
            elif self._links.failure is not None and not self._ready:
                self._refuse(waiter, partial(failures.lost, self._links.failure))
            else:
                return

    def _refuse(self, waiter: "asyncio.Future[Stream]", error: Callable[[], grpc.aio.AioRpcError]) -> None:
        if self._waiting.pop(waiter, None) is not None and not waiter.done():
            waiter.set_exception(error())
