"""A channel whose calls run the links of the client's side.

A grpc.aio interceptor would do the same for the price of a task and a call object more on every call
(bench/grpc_traps.py measures it); wrapping the channel costs a coroutine.
"""

from typing import Any, Protocol

import grpc

from services.mesh.chain.client.stream import StreamCall
from services.mesh.chain.invoke import ClientChain, unary
from services.mesh.chain.method import Method, describe_method
from services.mesh.wire.channel import WireChannel


class _Unary:
    """A callable of a stub whose response is one message; calling it gives a coroutine.

    `options` are grpc's own: credentials, wait_for_ready, compression.
    """

    __slots__ = ("_chain", "_method", "_raw")

    def __init__(self, chain: ClientChain, method: Method, raw: Any) -> None:
        self._chain = chain
        self._method = method
        self._raw = raw

    async def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> Any:
        call = self._chain.begin(self._method, timeout, metadata)
        return await unary(self._chain, call, self._raw, request, options)


class _Streaming:
    """A callable of a stub whose response is a stream."""

    __slots__ = ("_chain", "_method", "_raw")

    def __init__(self, chain: ClientChain, method: Method, raw: Any) -> None:
        self._chain = chain
        self._method = method
        self._raw = raw

    def __call__(
        self, request: Any = None, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> StreamCall:
        chain = self._chain
        call = chain.begin(self._method, timeout, metadata)

        def start() -> Any:
            return self._raw(request, timeout=call.granted_s, metadata=call.metadata, **options)

        return StreamCall(call, start, chain.whole, chain.breaker.answered)


class _MakesCallables(Protocol):
    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any: ...


class MeshChannel(grpc.aio.Channel):
    """A grpc.aio channel for stubs; `bare` is the one without links.

    `wire` makes connections of its own, for those who make very many unary calls: None where it does not
    speak what the target asks for.
    """

    def __init__(self, bare: grpc.aio.Channel, chain: ClientChain, wire: WireChannel | None = None) -> None:
        self.bare = bare
        self.chain = chain
        self._wire = wire
        self._wired = False

    def quick_unary(self, path: str, serializer: Any, deserializer: Any) -> Any:
        """A callable without links, called with `timeout` and `metadata`: a third of grpc.aio's CPU time."""
        if self._wire is None:
            return self.bare.unary_unary(
                path, request_serializer=serializer, response_deserializer=deserializer
            )
        self._wired = True
        return self._wire.unary(path, serializer, deserializer)

    def expect(self) -> None:
        """Somebody has seen the target alive: who waits before connecting again need not."""
        if self._wire is not None:
            self._wire.expect()

    def _wrap(
        self, make: _MakesCallables, method: str, args: Any, kwargs: Any, streaming: tuple[bool, bool]
    ) -> Any:
        described = describe_method(method, request_streaming=streaming[0], response_streaming=streaming[1])
        raw = make(method, *args, **kwargs)
        return (_Streaming if streaming[1] else _Unary)(self.chain, described, raw)

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(self.bare.unary_unary, method, args, kwargs, (False, False))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(self.bare.unary_stream, method, args, kwargs, (False, True))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(self.bare.stream_unary, method, args, kwargs, (True, False))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(self.bare.stream_stream, method, args, kwargs, (True, True))

    async def __aenter__(self) -> "MeshChannel":
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        if self._wire is not None:
            await self._wire.close()
        await self.bare.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        if self._wired and self._wire is not None:
            return self._wire.get_state(try_to_connect)
        return self.bare.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.bare.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.bare.channel_ready()
