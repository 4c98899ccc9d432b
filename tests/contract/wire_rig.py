"""What tests of the mesh's own unary client share: gRPC's server, and a peer that does what the test says."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from services.mesh.wire.channel import WireChannel, address_of

HANG_S = 20.0
PATH = "/test.Echo/Call"
MIB = 1 << 20

Handler = Callable[[bytes, Any], Awaitable[bytes]]
Call = Callable[..., Awaitable[bytes]]


def same(message: bytes) -> bytes:
    return message


@asynccontextmanager
async def server(
    handler: Handler, port: int = 0, **options: Any
) -> AsyncIterator[tuple[grpc.aio.Server, int]]:
    """gRPC's server with one method of bytes."""
    made = grpc.aio.server(options=[("grpc.so_reuseport", 1), *options.pop("options", ())], **options)
    method = grpc.unary_unary_rpc_method_handler(handler)  # type: ignore[arg-type]
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"Call": method}),))
    bound = made.add_insecure_port(f"127.0.0.1:{port}")
    await made.start()
    try:
        yield made, bound
    finally:
        await made.stop(None)


@asynccontextmanager
async def client(
    port: int, max_message_bytes: int = 8 * MIB, attempt_s: float = HANG_S
) -> AsyncIterator[tuple[WireChannel, Call]]:
    """A channel and a method of bytes. Attempts have time: a busy machine is no lost connection."""
    target = f"127.0.0.1:{port}"
    address = address_of(target)
    assert address is not None
    channel = WireChannel(target, address, max_message_bytes=max_message_bytes, attempt_s=attempt_s)
    try:
        async with asyncio.timeout(HANG_S):
            yield channel, channel.unary(PATH, same, same)
    finally:
        await channel.close()


async def echo(request: bytes, _context: Any) -> bytes:
    return request


def code_of(raised: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return raised.value.code()


DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OK_HEAD = b"\x88\x0f\x10\x10application/grpc"
OK_TRAILER = b"\x00\x0bgrpc-status\x010"


def field(key: str, value: bytes) -> bytes:
    """A header as a literal; a value of less than 127 bytes."""
    return b"\x00" + bytes((len(key),)) + key.encode() + bytes((len(value),)) + value


def setting(key: int, value: int) -> bytes:
    return struct.pack(">HI", key, value)


def number_of(value: int) -> bytes:
    return struct.pack(">I", value)


def frame(kind: int, flags: int, number: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, number) + payload


def answer(number: int, body: bytes = b"ok") -> bytes:
    message = struct.pack(">BI", 0, len(body)) + body
    return (
        frame(HEADERS, 4, number, OK_HEAD)
        + frame(DATA, 0, number, message)
        + frame(HEADERS, 5, number, OK_TRAILER)
    )


class Peer:
    """Speaks what it is told; `frames` are what the client sent, the settings and window updates left out."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def greet(self, settings: bytes = b"") -> None:
        await self.reader.readexactly(24)
        self.send(frame(SETTINGS, 0, 0, settings))

    async def any(self) -> tuple[int, int, int, bytes]:
        """The next frame of whatever kind."""
        high, low, kind, flags, number = struct.unpack(">BHBBI", await self.reader.readexactly(9))
        return kind, flags, number, await self.reader.readexactly(high << 16 | low)

    async def of(self, wanted: int) -> tuple[int, int, int, bytes]:
        """The next frame of that kind."""
        while True:
            found = await self.any()
            if found[0] == wanted:
                return found

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def next(self) -> tuple[int, int, int, bytes]:
        while True:
            found = await self.any()
            if found[0] not in (SETTINGS, WINDOW):
                return found

    async def call(self) -> int:
        """The number of the next call, once it is there whole."""
        while True:
            kind, flags, number, _ = await self.next()
            if kind == DATA and flags & 1:
                return number


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(
    *scripts: Script, max_message_bytes: int = 1000, attempt_s: float = HANG_S
) -> AsyncIterator[tuple[WireChannel, Call]]:
    """A peer whose n-th connection follows the n-th script, the last one from then on."""
    left = list(scripts)
    serving: set[asyncio.Task[None]] = set()
    wrong: list[Exception] = []

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = left.pop(0) if len(left) > 1 else left[0]
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await script(Peer(reader, writer))
                await reader.read()
        except Exception as error:
            wrong.append(error)
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        async with client(listener.sockets[0].getsockname()[1], max_message_bytes, attempt_s) as both:
            yield both
    finally:
        listener.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # in which aborted transports close their sockets
        if wrong:
            raise wrong[0]


async def good(peer: Peer) -> None:
    await peer.greet()
    while True:
        peer.send(answer(await peer.call(), b"good"))


async def expect_code(call: Call, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"", timeout=HANG_S)
    assert code_of(raised) is code
