"""Unary calls to all addresses of one target in turn: connects, connects again, and calls."""

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

import grpc

from services.mesh import transport
from services.mesh.wire import failures, headers
from services.mesh.wire.connection import Connection

Request = TypeVar("Request")
Response = TypeVar("Response")
Address = tuple[str, int]

_log = logging.getLogger(__name__)

_BEGIN_S, _ATTEMPT_S, _MOST_S = (each / 1000 for each in transport.RECONNECT_MS)
_GROWTH: Final = 1.6
_JITTER: Final = 0.2
# A connection that ends sooner than this is not followed by the next one at once, in seconds.
_SHORT_LIFE_S: Final = 1.0
# How often a call that no peer has looked at is made again.
_AGAIN: Final = 5
_MOST_TIMEOUT_MS: Final = 99_999_999

_HEAD_END: Final = b"".join(
    headers.name(key) + headers.text(value)
    for key, value in (
        ("te", b"trailers"),
        ("content-type", b"application/grpc"),
        ("user-agent", b"waymesh-wire"),
    )
)
_TIMEOUT: Final = headers.name("grpc-timeout")
_names: dict[str, bytes] = {}


def address_of(target: str) -> Address | None:
    """Host and port of a target; None for one of another scheme, which this module does not speak."""
    rest = target.removeprefix("dns:///")
    host, _, port = rest.rpartition(":")
    if "/" in rest or not port.isdigit() or not host or (":" in host and host[0] != "["):
        return None
    return host.strip("[]"), int(port)


class WireChannel:
    """Connections to one target. Not for other threads than the loop's."""

    def __init__(self, target: str, address: Address, *, max_message_bytes: int) -> None:
        self.target = target
        self._host, self._port = address
        self._max_message = max_message_bytes
        self._ready: list[Connection] = []
        self._turn = 0
        # Connections by address.
        self._made: dict[Address, Connection] = {}
        self._addresses: tuple[Address, ...] = ()
        self._born: dict[Connection, float] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._changed: list[asyncio.Future[None]] = []
        # Why there is no connection, from an attempt that failed until one succeeds or begins anew.
        self._failure: str | None = None
        self._hasty = False
        self._closed = False
        # Set when the next attempt should not wait any longer.
        self._now = asyncio.Event()

    def unary(
        self,
        path: str,
        serializer: Callable[[Request], bytes],
        deserializer: Callable[[bytes], Response],
    ) -> "Unary[Request, Response]":
        """The callable of one method."""
        return Unary(self, path, serializer, deserializer, self._max_message)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As grpc.aio's."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self._ready:
            return grpc.ChannelConnectivity.READY
        if self._failure is not None:
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if self._connecting is not None:
            return grpc.ChannelConnectivity.CONNECTING
        if try_to_connect:
            self._connect()
        return grpc.ChannelConnectivity.IDLE

    def expect(self) -> None:
        """Somebody has seen the target alive: calls wait for the next attempt, which is made at once."""
        if not self._ready:
            self._failure = None
            self._now.set()

    async def close(self) -> None:
        """Ends all calls and connections."""
        self._closed = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
        for connection in list(self._made.values()):
            connection.close()
        self._made.clear()
        self._ready.clear()
        self._tell()

    def pick(self) -> Connection | None:
        """The connection whose turn it is; None if there is none, or all are full."""
        ready = self._ready
        if len(ready) == 1 and not ready[0].full:
            return ready[0]
        for _ in ready:
            self._turn = (self._turn + 1) % len(ready)
            if not ready[self._turn].full:
                return ready[self._turn]
        return None

    async def wait(self) -> Connection:
        """A connection, once there is one. Raises AioRpcError if the last attempt to get one has failed."""
        while True:
            if self._closed:
                raise failures.closed()
            connection = self.pick()
            if connection is not None:
                return connection
            if self._ready:
                waiters = [each.slot() for each in self._ready]
                await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
                continue
            if self._failure is not None:
                raise failures.lost(self._failure)
            self._connect()
            waiter = asyncio.get_running_loop().create_future()
            self._changed.append(waiter)
            await waiter

    # --- connections ------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._connecting is None and not self._closed:
            self._connecting = asyncio.create_task(self._keep(), name=f"connections to {self.target}")

    async def _keep(self) -> None:
        """Until every address has its connection."""
        wait_s = _BEGIN_S
        try:
            if self._hasty:
                await asyncio.sleep(_jittered(wait_s))
            while True:
                failure = await self._attempt(max(_ATTEMPT_S, wait_s))
                if failure is None and all(each in self._made for each in self._addresses):
                    return
                if failure is not None and not self._ready:
                    self._failure = failure
                    self._tell()
                self._now.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._now.wait(), _jittered(wait_s))
                wait_s = min(_MOST_S, wait_s * _GROWTH)
        finally:
            self._connecting = None

    async def _attempt(self, limit_s: float) -> str | None:
        """Tries every address without a connection; what went wrong, if anything did."""
        try:
            self._addresses = await self._resolve()
        except OSError as error:
            return f"{self._host} has no address: {error}"
        for address in [each for each in self._made if each not in self._addresses]:
            self._made.pop(address).leave()
        missing = [each for each in self._addresses if each not in self._made]
        ends = await asyncio.gather(*(self._open(each, limit_s) for each in missing))
        return next((each for each in ends if each is not None), None)

    async def _resolve(self) -> tuple[Address, ...]:
        with contextlib.suppress(ValueError):
            return ((str(ipaddress.ip_address(self._host)), self._port),)
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys((str(info[4][0]), int(info[4][1])) for info in found))

    async def _open(self, address: Address, limit_s: float) -> str | None:
        """Makes a connection; it counts once the peer has spoken. What went wrong, if anything did."""
        loop = asyncio.get_running_loop()
        settled: asyncio.Future[str | None] = loop.create_future()

        def on_ready(connection: Connection) -> None:
            self._made[address] = connection
            self._born[connection] = time.monotonic()
            self._ready.append(connection)
            self._failure = None
            self._tell()
            if not settled.done():
                settled.set_result(None)

        def on_lost(connection: Connection, why: str) -> None:
            if not settled.done():
                settled.set_result(why)
            self._lost(address, connection, why)

        connection: Connection | None = None
        try:
            async with asyncio.timeout(limit_s):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._max_message, on_ready, on_lost), *address
                )
                return await settled
        except TimeoutError:
            if connection is not None:
                connection.abort()
            return f"no connection within {limit_s:g} s"
        except OSError as error:
            return f"no connection: {error}"

    def _lost(self, address: Address, connection: Connection, why: str) -> None:
        born = self._born.pop(connection, None)
        if connection in self._ready:
            self._ready.remove(connection)
        if self._made.get(address) is connection:
            del self._made[address]
        if born is None or self._closed:
            return
        _log.debug("a connection to %s is lost: %s", self.target, why)
        self._hasty = time.monotonic() - born < _SHORT_LIFE_S
        self._connect()
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for waiter in changed:
            if not waiter.done():
                waiter.set_result(None)


class Unary(Generic[Request, Response]):
    """A method, called as grpc.aio's: raises AioRpcError; cancelling the caller cancels the call."""

    __slots__ = ("_channel", "_head", "_max_message", "_parse", "_serialize")

    def __init__(
        self,
        channel: WireChannel,
        path: str,
        serializer: Callable[[Request], bytes],
        deserializer: Callable[[bytes], Response],
        max_message: int,
    ) -> None:
        self._channel = channel
        self._head = headers.request_head(path, channel.target) + _HEAD_END
        self._serialize = serializer
        self._parse = deserializer
        self._max_message = max_message

    async def __call__(
        self,
        request: Request,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> Response:
        message = self._serialize(request)
        if len(message) > self._max_message:
            raise failures.too_large("Sent", len(message), self._max_message)
        head = [self._head, b""]
        for key, value in metadata:
            head += header(key, value)
        connection = self._channel.pick()
        if connection is None:
            return self._parse(await self._slowly(head, message, timeout))
        try:
            return self._parse(await _once(connection, head, message, timeout))
        except failures.UnprocessedError:
            return self._parse(await self._slowly(head, message, timeout))

    async def _slowly(self, head: list[bytes], message: bytes, timeout: float | None) -> bytes:
        """The call when there is no connection yet, or a peer on its way out has not looked at it."""
        until = None if timeout is None else time.monotonic() + timeout
        for _ in range(_AGAIN):
            try:
                async with asyncio.timeout(timeout):
                    connection = await self._channel.wait()
            except TimeoutError:
                raise failures.late() from None
            if until is not None:
                timeout = until - time.monotonic()
                if timeout <= 0:
                    raise failures.late()
            try:
                return await _once(connection, head, message, timeout)
            except failures.UnprocessedError:
                continue
        raise failures.lost("peers on their way out have refused the call too often")


async def _once(connection: Connection, head: list[bytes], message: bytes, timeout: float | None) -> bytes:
    if timeout is None:
        stream = connection.begin(b"".join(head), message)
        try:
            return await stream.done
        except asyncio.CancelledError:
            stream.cancel()
            raise
    head[1] = _TIMEOUT + headers.text(_timeout(timeout))
    stream = connection.begin(b"".join(head), message)
    timer = asyncio.get_running_loop().call_later(timeout, stream.late)
    try:
        return await stream.done
    except asyncio.CancelledError:
        stream.cancel()
        raise
    finally:
        timer.cancel()


def _timeout(seconds: float) -> bytes:
    ms = max(1, int(seconds * 1000))
    return b"%dm" % ms if ms <= _MOST_TIMEOUT_MS else b"%dS" % min(_MOST_TIMEOUT_MS, ms // 1000)


def header(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    """One header of a call. Raises AioRpcError for a text that HTTP cannot carry."""
    name = _names.get(key)
    if name is None:
        name = headers.name(key)
        if len(_names) < 256:
            _names[key] = name
    if type(value) is str:
        if not value.isascii() or not value.isprintable():
            raise failures.broken(f"{key} is no text that can be sent")
        return name, headers.text(value.encode("ascii"))
    return name, headers.text(failures.to_base64(bytes(value)))  # type: ignore[arg-type]


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
