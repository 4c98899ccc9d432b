"""The mesh's own unary client before gRPC's server, and before a peer that does what the test says."""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest

from services.mesh.wire import connection as wire_connection
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
async def client(port: int, max_message_bytes: int = 8 * MIB) -> AsyncIterator[tuple[WireChannel, Call]]:
    target = f"127.0.0.1:{port}"
    address = address_of(target)
    assert address is not None
    channel = WireChannel(target, address, max_message_bytes=max_message_bytes)
    try:
        async with asyncio.timeout(HANG_S):
            yield channel, channel.unary(PATH, same, same)
    finally:
        await channel.close()


async def echo(request: bytes, _context: Any) -> bytes:
    return request


def code_of(raised: pytest.ExceptionInfo[grpc.aio.AioRpcError]) -> grpc.StatusCode:
    return raised.value.code()


# --- before gRPC's server -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_379, 16_380, 65_530, 65_536, 3 * MIB])
async def test_messages_of_any_size_go_there_and_back(size: int) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with (
        server(echo, options=[("grpc.max_receive_message_length", 8 * MIB)]) as (_, port),
        client(port) as (_, call),
    ):
        assert await call(message) == message
        assert await call(message) == message


async def test_many_calls_at_once_get_each_its_own_answer() -> None:
    async with server(echo) as (_, port), client(port) as (_, call):
        messages = [b"%d" % n * (n * 37 % 900) for n in range(300)]
        assert await asyncio.gather(*(call(each, timeout=HANG_S) for each in messages)) == messages


async def test_large_calls_at_once_share_the_windows() -> None:
    async with server(echo) as (_, port), client(port) as (_, call):
        messages = [bytes([n]) * 400_000 for n in range(12)]
        assert await asyncio.gather(*(call(each) for each in messages)) == messages


async def test_metadata_and_the_time_granted_arrive() -> None:
    seen: dict[str, Any] = {}

    async def handler(_request: bytes, context: Any) -> bytes:
        seen.update(context.invocation_metadata())
        seen["left"] = context.time_remaining()
        return b""

    async with server(handler) as (_, port), client(port) as (_, call):
        await call(
            b"", timeout=5.0, metadata=(("x-request-id", "a b~!" * 40), ("x-raw-bin", b"\x00\xff\x10"))
        )

    assert seen["x-request-id"] == "a b~!" * 40
    assert seen["x-raw-bin"] == b"\x00\xff\x10"
    assert 0 < seen["left"] <= 5.0


async def test_metadata_longer_than_a_frame_arrives_whole() -> None:
    async def handler(_request: bytes, context: Any) -> bytes:
        return bytes(dict(context.invocation_metadata())["x-long"], "ascii")

    options = [("grpc.max_metadata_size", 128 * 1024), ("grpc.absolute_max_metadata_size", 256 * 1024)]
    async with server(handler, options=options) as (_, port), client(port) as (_, call):
        assert await call(b"", metadata=(("x-long", "y" * 40_000),)) == b"y" * 40_000


async def test_a_text_that_http_cannot_carry_is_refused() -> None:
    async with server(echo) as (_, port), client(port) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", metadata=(("tracestate", "a=é"),))
        assert code_of(raised) is grpc.StatusCode.INTERNAL
        assert await call(b"still") == b"still"


async def test_a_status_comes_with_its_words_and_its_trailers() -> None:
    async def handler(_request: bytes, context: Any) -> bytes:
        trailers = (("grpc-status-details-bin", b"\x00\x01\xfe" * 50), ("x-text", "t"))
        await context.abort(grpc.StatusCode.NOT_FOUND, "kein Ort für 100%", trailers)
        return b""

    async with server(handler) as (_, port), client(port) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"")

    assert code_of(raised) is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "kein Ort für 100%"
    trailers = dict(raised.value.trailing_metadata())
    assert trailers["grpc-status-details-bin"] == b"\x00\x01\xfe" * 50
    assert trailers["x-text"] == "t"


async def test_an_unknown_method_is_unimplemented() -> None:
    async with server(echo) as (_, port), client(port) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary("/test.Echo/Other", same, same)(b"")
    assert code_of(raised) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_passed_deadline_ends_the_call_at_both_ends() -> None:
    ended = asyncio.Event()

    async def handler(_request: bytes, _context: Any) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    async with server(handler) as (_, port), client(port) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", timeout=0.05)
        assert code_of(raised) is grpc.StatusCode.DEADLINE_EXCEEDED
        await ended.wait()


async def test_a_cancelled_caller_cancels_the_handler() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(_request: bytes, _context: Any) -> bytes:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return b""

    async with server(handler) as (_, port), client(port) as (_, call):
        calling = asyncio.ensure_future(call(b"", timeout=HANG_S))
        await begun.wait()
        calling.cancel()
        await cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_too_large_messages_are_told_as_such_either_way() -> None:
    async def handler(request: bytes, _context: Any) -> bytes:
        return request * 3

    async with server(handler) as (_, port), client(port, 1000) as (_, call):
        for size, way in ((1001, "Sent"), (400, "Received")):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(bytes(size))
            assert code_of(raised) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"{way} message larger than max" in str(raised.value.details())
        assert len(await call(bytes(300))) == 900


async def test_nobody_there_fails_at_once_and_is_found_when_it_comes() -> None:
    async with server(echo) as (_, port):
        pass
    async with client(port) as (channel, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"")
        assert code_of(raised) is grpc.StatusCode.UNAVAILABLE
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        async with server(echo, port):
            channel.expect()
            assert await call(b"there") == b"there"
            assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_server_that_went_is_found_again_without_being_asked_for() -> None:
    async with server(echo) as (_, port), client(port) as (channel, call):
        await call(b"")
        port_ = port
        async with server(echo, port_):
            pass
    async with client(port_) as (channel, call):
        async with server(echo, port_):
            await _until_ready(channel)
            await call(b"")
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await asyncio.sleep(0)
        async with server(echo, port_):
            await _until_ready(channel)
            assert await call(b"again") == b"again"


async def _until_ready(channel: WireChannel) -> None:
    while channel.get_state(True) is not grpc.ChannelConnectivity.READY:
        await asyncio.sleep(0.01)


async def test_a_server_that_stops_lets_calls_end_and_its_successor_takes_the_new_ones() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, _context: Any) -> bytes:
        if request == b"slow":
            begun.set()
            await go_on.wait()
        return b"old"

    async def successor(_request: bytes, _context: Any) -> bytes:
        return b"new"

    async with server(slow) as (old, port), client(port) as (_, call):
        under_way = asyncio.ensure_future(call(b"slow"))
        await begun.wait()
        stopping = asyncio.ensure_future(old.stop(HANG_S))
        async with server(successor, port):
            while await _or_unavailable(call) != b"new":
                await asyncio.sleep(0.01)
            go_on.set()
            assert await under_way == b"old"
            await stopping


async def _or_unavailable(call: Call) -> bytes:
    try:
        return await call(b"quick")
    except grpc.aio.AioRpcError as error:
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            raise
        return b""  # what meets the old server after its GOAWAY was sent is cancelled by it, unread


async def test_connections_that_end_by_age_lose_no_call() -> None:
    options = [("grpc.max_connection_age_ms", 150), ("grpc.max_connection_age_grace_ms", 5_000)]
    async with server(echo, options=options) as (_, port), client(port) as (_, call):
        until = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < until:
            assert await asyncio.gather(*(call(b"%d" % n) for n in range(5))) == [b"%d" % n for n in range(5)]


async def test_a_peer_that_takes_one_call_at_a_time_gets_one_at_a_time() -> None:
    most = running = 0

    async def handler(request: bytes, _context: Any) -> bytes:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return request

    options = [("grpc.max_concurrent_streams", 2)]
    async with server(handler, options=options) as (_, port), client(port) as (_, call):
        await call(b"")
        assert await asyncio.gather(*(call(b"%d" % n) for n in range(40))) == [b"%d" % n for n in range(40)]
    assert most <= 2


async def test_closing_ends_calls_under_way() -> None:
    begun = asyncio.Event()

    async def handler(_request: bytes, _context: Any) -> bytes:
        begun.set()
        await asyncio.Event().wait()
        return b""

    async with server(handler) as (_, port), client(port) as (channel, call):
        calling = asyncio.ensure_future(call(b""))
        await begun.wait()
        await channel.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calling
        assert code_of(raised) is grpc.StatusCode.CANCELLED
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"")


async def test_all_addresses_of_a_name_are_tried() -> None:
    async with server(echo) as (_, port):
        address = address_of(f"localhost:{port}")
        assert address is not None
        channel = WireChannel(f"localhost:{port}", address, max_message_bytes=MIB)
        try:
            async with asyncio.timeout(HANG_S):
                assert await channel.unary(PATH, same, same)(b"x") == b"x"
        finally:
            await channel.close()


async def test_a_name_without_an_address_cannot_be_reached() -> None:
    channel = WireChannel("nowhere.invalid:1", ("nowhere.invalid", 1), max_message_bytes=MIB)
    try:
        async with asyncio.timeout(HANG_S):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary(PATH, same, same)(b"")
        assert code_of(raised) is grpc.StatusCode.UNAVAILABLE
    finally:
        await channel.close()


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("eta:50051", ("eta", 50051)),
        ("dns:///eta:50051", ("eta", 50051)),
        ("[::1]:50051", ("::1", 50051)),
        ("unix:/tmp/eta", None),
        ("xds:///eta", None),
        ("eta", None),
        ("::1:5", None),
    ],
)
def test_targets_of_a_host_and_a_port_are_spoken(target: str, address: tuple[str, int] | None) -> None:
    assert address_of(target) == address


# --- before a peer that does what the test says -------------------------------------------------------------

DATA, HEADERS, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
OK_HEAD = b"\x88\x0f\x10\x10application/grpc"
OK_TRAILER = b"\x00\x0bgrpc-status\x010"


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

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def next(self) -> tuple[int, int, int, bytes]:
        while True:
            high, low, kind, flags, number = struct.unpack(">BHBBI", await self.reader.readexactly(9))
            payload = await self.reader.readexactly(high << 16 | low)
            if kind not in (SETTINGS, WINDOW):
                return kind, flags, number, payload

    async def call(self) -> int:
        """The number of the next call, once it is there whole."""
        while True:
            kind, flags, number, _ = await self.next()
            if kind == DATA and flags & 1:
                return number


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[tuple[WireChannel, Call]]:
    """A peer whose n-th connection follows the n-th script, the last one from then on."""
    left = list(scripts)
    serving: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = left.pop(0) if len(left) > 1 else left[0]
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await script(Peer(reader, writer))
                await reader.read()
        finally:
            writer.transport.abort()

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    try:
        async with client(listener.sockets[0].getsockname()[1], 1000) as both:
            yield both
    finally:
        listener.close()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # in which aborted transports close their sockets


async def good(peer: Peer) -> None:
    await peer.greet()
    while True:
        peer.send(answer(await peer.call(), b"good"))


async def expect_code(call: Call, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"", timeout=HANG_S)
    assert code_of(raised) is code


async def test_an_answer_in_pieces_of_one_byte_is_put_together() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        for byte in answer(await peer.call(), b"in pieces"):
            peer.send(bytes((byte,)))
            await peer.writer.drain()
            await asyncio.sleep(0)

    async with scripted(script) as (_, call):
        assert await call(b"") == b"in pieces"


async def test_headers_in_pieces_padding_and_priority_are_understood() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        message = struct.pack(">BI", 0, 2) + b"ok"
        peer.send(frame(HEADERS, 0, number, OK_HEAD[:3]) + frame(CONTINUATION, 4, number, OK_HEAD[3:]))
        peer.send(frame(DATA, 8, number, b"\x03" + message[:4] + bytes(3)))
        peer.send(frame(DATA, 0, number, message[4:]) + frame(200, 0, 0, b"of a later protocol"))
        peer.send(frame(HEADERS, 4 | 1 | 8 | 32, number, b"\x02" + bytes(5) + OK_TRAILER + bytes(2)))

    async with scripted(script) as (_, call):
        assert await call(b"") == b"ok"


async def test_a_ping_is_answered_with_what_it_held() -> None:
    got: asyncio.Future[tuple[int, int, int, bytes]] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        peer.send(frame(PING, 0, 0, b"01234567"))
        got.set_result(await peer.next())
        peer.send(answer(number))

    async with scripted(script) as (_, call):
        await call(b"")
    assert await got == (PING, 1, 0, b"01234567")


async def test_calls_that_a_leaving_peer_has_not_read_are_made_again_elsewhere() -> None:
    async def leaving(peer: Peer) -> None:
        await peer.greet()
        first, second = await peer.call(), await peer.call()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0)))
        assert second > first
        peer.send(answer(first, b"leaving"))

    async with scripted(leaving, good) as (_, call):
        assert await asyncio.gather(call(b""), call(b"")) == [b"leaving", b"good"]


async def test_a_refused_stream_is_made_again() -> None:
    async def refusing(peer: Peer) -> None:
        await peer.greet()
        peer.send(frame(RST, 0, await peer.call(), struct.pack(">I", 7)))
        peer.send(answer(await peer.call(), b"second"))

    async with scripted(refusing) as (_, call):
        assert await call(b"", timeout=HANG_S) == b"second"


async def test_a_peer_that_refuses_for_ever_is_unavailable() -> None:
    async def refusing(peer: Peer) -> None:
        await peer.greet()
        while True:
            peer.send(frame(RST, 0, await peer.call(), struct.pack(">I", 7)))

    async with scripted(refusing) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (8, grpc.StatusCode.CANCELLED),
        (2, grpc.StatusCode.INTERNAL),
        (11, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (12, grpc.StatusCode.PERMISSION_DENIED),
        (999, grpc.StatusCode.INTERNAL),
    ],
)
async def test_a_reset_is_told_by_its_code(reset: int, code: grpc.StatusCode) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(frame(RST, 0, await peer.call(), struct.pack(">I", reset)))

    async with scripted(script) as (_, call):
        await expect_code(call, code)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (frame(HEADERS, 5, 1, b"\x8d"), grpc.StatusCode.UNIMPLEMENTED),  # 404
        (frame(HEADERS, 5, 1, b"\x08\x03503"), grpc.StatusCode.UNAVAILABLE),
        (frame(HEADERS, 4, 1, b"\x88\x0f\x10\x09text/html"), grpc.StatusCode.UNKNOWN),
        (frame(HEADERS, 4, 1, OK_HEAD) + frame(HEADERS, 5, 1, OK_TRAILER), grpc.StatusCode.INTERNAL),
        (frame(HEADERS, 4, 1, OK_HEAD) + frame(DATA, 1, 1, bytes(5)), grpc.StatusCode.INTERNAL),
        (frame(HEADERS, 4, 1, OK_HEAD) + frame(DATA, 0, 1, bytes(12)), grpc.StatusCode.INTERNAL),
        (
            frame(HEADERS, 4, 1, OK_HEAD)
            + frame(DATA, 0, 1, b"\1\0\0\0\0")
            + frame(HEADERS, 5, 1, OK_TRAILER),
            grpc.StatusCode.INTERNAL,
        ),
        (frame(HEADERS, 5, 1, OK_HEAD + b"\x00\x0bgrpc-status\x0377x"), grpc.StatusCode.UNKNOWN),
        (frame(HEADERS, 5, 1, OK_HEAD + b"\x00\x0bgrpc-status\x0214"), grpc.StatusCode.UNAVAILABLE),
        # What breaks the connection:
        (frame(PUSH, 4, 1, bytes(8)), grpc.StatusCode.UNAVAILABLE),
        (frame(CONTINUATION, 4, 1, OK_HEAD), grpc.StatusCode.UNAVAILABLE),
        (frame(HEADERS, 0, 1, OK_HEAD) + frame(PING, 0, 0, bytes(8)), grpc.StatusCode.UNAVAILABLE),
        (frame(HEADERS, 4, 1, b"\xbe"), grpc.StatusCode.UNAVAILABLE),
        (frame(DATA, 8, 1, b"\x09ab"), grpc.StatusCode.UNAVAILABLE),
        (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", grpc.StatusCode.UNAVAILABLE),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_an_answer_that_is_none_fails_the_call_and_no_other(said: bytes, code: grpc.StatusCode) -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        assert await peer.call() == 1
        peer.send(said)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                peer.send(answer(await peer.call(), b"good"))

    async with scripted(script, good) as (_, call):
        await expect_code(call, code)
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_news_before_the_answer_are_passed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        peer.send(frame(HEADERS, 4, number, b"\x08\x03103"))
        peer.send(answer(number))

    async with scripted(script) as (_, call):
        assert await call(b"") == b"ok"


async def test_a_lost_connection_fails_what_was_sent() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        peer.writer.transport.abort()

    async with scripted(script, good) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_a_peer_that_never_speaks_is_no_connection() -> None:
    async def silent(peer: Peer) -> None:
        await asyncio.Event().wait()

    async with scripted(silent) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)


async def test_a_message_waits_for_windows_and_ends_with_them() -> None:
    pieces: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(struct.pack(">HI", 4, 10))
        while True:
            kind, flags, number, payload = await peer.next()
            if kind == DATA:
                pieces.append(payload)
                if flags & 1:
                    break
                if len(pieces) == 1:
                    # More for all streams there are, then more for this one.
                    peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 25)))
                else:
                    peer.send(frame(WINDOW, 0, number, struct.pack(">I", 1000)))
        peer.send(answer(number))

    async with scripted(script) as (_, call):
        assert await call(bytes(range(100))) == b"ok"
    assert b"".join(pieces) == struct.pack(">BI", 0, 100) + bytes(range(100))
    assert [len(piece) for piece in pieces] == [10, 15, 80]


async def test_an_answer_before_the_whole_request_ends_the_sending() -> None:
    got: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        await peer.greet(struct.pack(">HI", 4, 10))
        _, _, number, _ = await peer.next()
        peer.send(answer(number))
        while True:
            kind, _, _, _ = await peer.next()
            if kind == RST:
                got.set_result(kind)

    async with scripted(script) as (_, call):
        assert await call(bytes(100)) == b"ok"
        assert await got == RST


async def test_a_peer_that_does_not_answer_a_ping_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_connection, "_PING_AFTER_S", 0.05)
    monkeypatch.setattr(wire_connection, "_PONG_WITHIN_S", 0.05)

    async def frozen(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        await asyncio.Event().wait()

    async with scripted(frozen, good) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_a_peer_that_answers_pings_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_connection, "_PING_AFTER_S", 0.02)
    monkeypatch.setattr(wire_connection, "_PONG_WITHIN_S", HANG_S)

    async def slow(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        kind, _, _, payload = await peer.next()
        assert kind == PING
        peer.send(frame(PING, 1, 0, payload) + answer(number))

    async with scripted(slow) as (_, call):
        assert await call(b"") == b"ok"


async def test_a_connection_that_has_had_all_its_calls_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_connection, "_LAST_STREAM", 6)

    async with server(echo) as (_, port), client(port) as (_, call):
        for n in range(20):
            assert await call(b"%d" % n, timeout=HANG_S) == b"%d" % n
