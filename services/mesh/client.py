"""Stubs for the other services of the mesh: budget, breaker, retries, trace and typed errors included."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from services.mesh import transport
from services.mesh.breaker import Breaker, BreakerPolicy, Listener, State
from services.mesh.chain.channel import MeshChannel
from services.mesh.chain.client.breaker import BreakerLink
from services.mesh.chain.client.retry import RetryLink
from services.mesh.chain.invoke import ClientChain
from services.mesh.deadline import Clock
from services.mesh.health import SERVING
from services.mesh.retry import RetryPolicy
from services.mesh.telemetry import Telemetry
from services.mesh.tls.live import LiveTls
from services.mesh.wire.channel import WireChannel, address_of

Stub = TypeVar("Stub")

_log = logging.getLogger(__name__)

# Pause before a health watch that failed is opened again, in seconds.
_WATCH_AGAIN_S: Final = 0.5
# A unary call without a timeout of its own and without a budget around it gets this many seconds.
_TIMEOUT_S: Final = 10.0


class ClientFactory:
    """Channels and stubs of one process, one channel per target. Close it before the loop ends."""

    def __init__(
        self,
        name: str,
        *,
        telemetry: Telemetry,
        breaker: BreakerPolicy | None = None,
        retry: RetryPolicy | None = None,
        timeout_s: float | None = _TIMEOUT_S,
        max_message_mib: int = 64,
        clock: Clock = time.monotonic,
        rng: random.Random | None = None,
        tls: LiveTls | None = None,
    ) -> None:
        """With `tls`, targets show certificates of their names, and this process shows its own."""
        self.name = name
        self._telemetry = telemetry
        self._breaker_policy = breaker or BreakerPolicy()
        self._retry_policy = retry or RetryPolicy()
        self._timeout_s = timeout_s
        self._max_message_mib = max_message_mib
        self._clock = clock
        self._rng = rng or random.Random()
        self._tls = tls
        if tls is not None:
            tls.on_change(self._renew)
        self._channels: dict[str, MeshChannel] = {}
        self._listeners: list[Listener] = []
        self._watches: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._closed = False

    def stub(self, stub_class: Callable[[grpc.aio.Channel], Stub], target: str) -> Stub:
        """A stub whose calls raise MeshErrors; unary ones give coroutines, streams give async iterators."""
        return stub_class(self.channel(target))

    def channel(self, target: str) -> MeshChannel:
        """The channel to a target such as `127.0.0.1:50051` or `eta:50051` (all addresses of the name)."""
        channel = self._channels.get(target)
        if channel is None:
            bare = transport.channel(target, self._max_message_mib, self._tls)
            breaker = BreakerLink(
                self._breaker_policy,
                self._telemetry,
                self._clock,
                lambda *change: self._on_change(target, *change),
            )
            retry = RetryLink(self._retry_policy, self._rng)
            chain = ClientChain(target, self._telemetry, breaker, retry, self._timeout_s)
            address = address_of(target)
            wire = None
            if address is not None:
                wire = WireChannel(
                    target,
                    address,
                    max_message_bytes=self._max_message_mib << 20,
                    tls=None if self._tls is None else self._client_context,
                )
            channel = self._channels[target] = MeshChannel(bare, chain, wire)
        return channel

    def breakers(self) -> list[Breaker]:
        """All breakers so far."""
        return [breaker for channel in self._channels.values() for breaker in channel.chain.breaker.breakers]

    def on_breaker_change(self, listener: Listener) -> None:
        """`listener(breaker, old, new)` whenever a breaker changes its state; it must not block or raise."""
        self._listeners.append(listener)

    async def close(self) -> None:
        """Ends all channels and calls."""
        if self._tls is not None and not self._closed:
            self._tls.forget(self._renew)
        self._closed = True
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close() for channel in channels))

    def _client_context(self) -> ssl.SSLContext:
        assert self._tls is not None
        return self._tls.current.client

    def _renew(self, _credentials: object) -> None:
        """New calls use new connections, made with what is current now."""
        for target, channel in self._channels.items():
            channel.renew(partial(transport.channel, target, self._max_message_mib, self._tls))

    def _on_change(self, target: str, breaker: Breaker, old: State, new: State) -> None:
        for listener in self._listeners:
            listener(breaker, old, new)
        if new is not State.OPEN:
            return
        service = breaker.method.lstrip("/").rpartition("/")[0]
        key = (target, service)
        if key not in self._watches:
            self._watches[key] = asyncio.create_task(
                self._watch(target, service), name=f"health of {service}"
            )

    async def _watch(self, target: str, service: str) -> None:
        """Follows the target's health while a breaker of the service is open."""
        key = (target, service)
        try:
            # A breaker that the transport opened has not seen the target alive: its first SERVING is news.
            # One that the target's own errors opened may find it SERVING all along.
            down = any(breaker.unreachable for breaker in self._open_breakers(target, service))
            while self._open_breakers(target, service):
                async for status in self._health(target, service):
                    if status != SERVING:
                        down = True
                    elif down:
                        down = False
                        self.channel(target).expect()
                        for breaker in self._open_breakers(target, service):
                            _log.info("%s is serving again", service)
                            breaker.serving_again()
                    if not self._open_breakers(target, service):
                        break
                else:
                    down = True
                    await asyncio.sleep(_WATCH_AGAIN_S)
        finally:
            self._watches.pop(key, None)

    async def _health(self, target: str, service: str) -> Any:
        """Each status that the target's health service reports, until the watch breaks."""
        channel = self._channels.get(target)
        if channel is None:
            return
        with channel.hold() as bare:
            watch = health_pb2_grpc.HealthStub(bare).Watch(
                health_pb2.HealthCheckRequest(service=service), wait_for_ready=True
            )
            try:
                async for response in watch:
                    yield response.status
            except grpc.aio.AioRpcError as error:
                _log.debug("the health watch of %s broke: %s", service, error.code())
            finally:
                watch.cancel()

    def _open_breakers(self, target: str, service: str) -> list[Breaker]:
        channel = self._channels.get(target)
        if channel is None:
            return []
        prefix = f"/{service}/"
        return [
            breaker
            for breaker in channel.chain.breaker.breakers
            if breaker.state is State.OPEN and breaker.method.startswith(prefix)
        ]
