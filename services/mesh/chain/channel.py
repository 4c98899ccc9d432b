"""A channel whose calls run the links of the client's side.

A grpc.aio interceptor would do the same for the price of a task and a call object more on every call
(bench/grpc_traps.py measures it); wrapping the channel costs a coroutine.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc

from services.mesh.chain.bare import Bare, Succession
from services.mesh.chain.client.stream import StreamCall
from services.mesh.chain.invoke import ClientChain, unary
from services.mesh.chain.method import Method, describe_method
from services.mesh.wire.channel import WireChannel

# A callable of one method, made on the channel that is given.
_Make = Callable[[grpc.aio.Channel], Any]


class _Callable:
    """A callable of one method; it is made anew when another channel has taken the place of its own."""

    __slots__ = ("_bare", "_chain", "_channels", "_make", "_method", "_raw")

    def __init__(self, channels: Succession, chain: ClientChain, method: Method, make: _Make) -> None:
        self._channels = channels
        self._chain = chain
        self._method = method
        self._make = make
        self._bare = channels.now
        self._raw = make(self._bare.channel)

    def _current(self) -> tuple[Bare, Any]:
        bare = self._channels.now
        if bare is not self._bare:
            self._bare, self._raw = bare, self._make(bare.channel)
        return bare, self._raw


class _Unary(_Callable):
    """Of a stub, whose response is one message; calling it gives a coroutine.

    `options` are grpc's own: credentials, wait_for_ready, compression.
    """

    __slots__ = ()

    async def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> Any:
        bare, raw = self._current()
        bare.under_way += 1
        try:
            call = self._chain.begin(self._method, timeout, metadata)
            return await unary(self._chain, call, raw, request, options)
        finally:
            bare.release()


class _Streaming(_Callable):
    """Of a stub, whose response is a stream."""

    __slots__ = ()

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> StreamCall:
        chain = self._chain
        call = chain.begin(self._method, timeout, metadata)
        bare, raw = self._current()

        def start() -> Any:
            return raw(request, timeout=call.granted_s, metadata=call.metadata, **options)

        bare.under_way += 1
        return StreamCall(call, start, chain.whole, chain.breaker.answered, bare.release)


class _Quick(_Callable):
    """Without links."""

    __slots__ = ()

    async def __call__(self, request: Any, **options: Any) -> Any:
        bare, raw = self._current()
        bare.under_way += 1
        try:
            return await raw(request, **options)
        finally:
            bare.release()


class MeshChannel(grpc.aio.Channel):
    """A grpc.aio channel for stubs; `bare` is the one without links.

    `wire` makes connections of its own, for those who make very many unary calls: None where it does not
    speak what the target asks for.
    """

    def __init__(self, bare: grpc.aio.Channel, chain: ClientChain, wire: WireChannel | None = None) -> None:
        self.chain = chain
        self._channels = Succession(bare)
        self._wire = wire
        self._wired = False

    @property
    def bare(self) -> grpc.aio.Channel:
        """The channel without links, for a moment; for longer, see `hold`."""
        return self._channels.now.channel

    def hold(self) -> AbstractContextManager[grpc.aio.Channel]:
        """The channel without links, which stays open meanwhile."""
        return self._channels.now.held()

    def quick_unary(self, path: str, serializer: Any, deserializer: Any) -> Any:
        """A callable without links, called with `timeout` and `metadata`: a third of grpc.aio's CPU time."""
        if self._wire is None:

            def make(channel: grpc.aio.Channel) -> Any:
                return channel.unary_unary(
                    path, request_serializer=serializer, response_deserializer=deserializer
                )

            method = describe_method(path, request_streaming=False, response_streaming=False)
            return _Quick(self._channels, self.chain, method, make)
        self._wired = True
        return self._wire.unary(path, serializer, deserializer)

    def expect(self) -> None:
        """Somebody has seen the target alive: who waits before connecting again need not."""
        if self._wire is not None:
            self._wire.expect()

    def renew(self, make: Callable[[], grpc.aio.Channel]) -> None:
        """New calls go by new connections, as `make` gives them for grpc.aio; calls under way go on."""
        self._channels.renew(make)
        if self._wire is not None:
            self._wire.renew()

    def _wrap(self, kind: str, method: str, args: Any, kwargs: Any, streaming: tuple[bool, bool]) -> Any:
        described = describe_method(method, request_streaming=streaming[0], response_streaming=streaming[1])

        def make(channel: grpc.aio.Channel) -> Any:
            return getattr(channel, kind)(method, *args, **kwargs)

        wrapped = _Streaming if streaming[1] else _Unary
        return wrapped(self._channels, self.chain, described, make)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap("unary_unary", method, args, kwargs, (False, False))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap("unary_stream", method, args, kwargs, (False, True))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap("stream_unary", method, args, kwargs, (True, False))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap("stream_stream", method, args, kwargs, (True, True))

    async def __aenter__(self) -> "MeshChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        if self._wire is not None:
            await self._wire.close()
        await self._channels.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self._wired and self._wire is not None:
            return self._wire.get_state(try_to_connect)
        return self.bare.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.bare.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.bare.channel_ready()
