"""The mesh's own unary client before gRPC's server."""

import asyncio
from typing import Any

import grpc
import pytest
from wire_rig import HANG_S, MIB, PATH, Call, client, code_of, echo, expect_code, same, server

from services.mesh.wire import connection as wire_connection
from services.mesh.wire import frames, links
from services.mesh.wire.channel import WireChannel, address_of


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

    metadata = (
        ("x-request-id", "a b~!" * 40),
        ("x-raw-bin", b"\x00\xff\x10"),
        ("x-words-bin", "é"),
        ("x-bytes", b"text"),
        ("x-empty", ""),
    )
    async with server(handler) as (_, port), client(port) as (_, call):
        await call(b"", timeout=5.0, metadata=metadata)

    assert seen["x-request-id"] == "a b~!" * 40
    assert seen["x-raw-bin"] == b"\x00\xff\x10"
    assert seen["x-words-bin"] == "é".encode()
    assert seen["x-bytes"] == "text"
    assert seen["x-empty"] == ""
    assert 0 < seen["left"] <= 5.0


async def test_metadata_longer_than_a_frame_arrives_whole() -> None:
    async def handler(_request: bytes, context: Any) -> bytes:
        return bytes(dict(context.invocation_metadata())["x-long"], "ascii")

    options = [("grpc.max_metadata_size", 128 * 1024), ("grpc.absolute_max_metadata_size", 256 * 1024)]
    async with server(handler, options=options) as (_, port), client(port) as (_, call):
        assert await call(b"", metadata=(("x-long", "y" * 40_000),)) == b"y" * 40_000


@pytest.mark.parametrize(
    "metadata",
    [
        ("tracestate", "a=é"),
        ("x", b"\xff"),
        ("x", "a\r\nb"),
        ("X", "a"),
        (":path", "/"),
        ("é", "a"),
        ("", ""),
    ],
)
async def test_what_http_cannot_carry_is_refused(metadata: tuple[str, str | bytes]) -> None:
    async with server(echo) as (_, port), client(port) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", metadata=(metadata,))
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


async def test_a_call_without_time_is_not_made() -> None:
    calls = 0

    async def handler(_request: bytes, _context: Any) -> bytes:
        nonlocal calls
        calls += 1
        return b""

    async with server(handler) as (_, port), client(port) as (_, call):
        await call(b"")
        for timeout in (0.0, -1.0):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"", timeout=timeout)
            assert code_of(raised) is grpc.StatusCode.DEADLINE_EXCEEDED
        await call(b"")
    assert calls == 2


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


async def test_a_refusal_that_is_old_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_jittered", lambda _: HANG_S)  # nothing is tried of its own accord
    monkeypatch.setattr(links, "_QUICK_S", HANG_S)
    monkeypatch.setattr(links, "_BEGIN_S", 0.0)
    async with server(echo) as (_, port):
        pass
    async with client(port) as (channel, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        async with server(echo, port):
            assert await call(b"there") == b"there"


async def test_a_refusal_that_is_fresh_is_enough_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_jittered", lambda _: HANG_S)
    monkeypatch.setattr(links, "_BEGIN_S", 2 * HANG_S)
    async with server(echo) as (_, port):
        pass
    async with client(port) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        async with server(echo, port):
            await expect_code(call, grpc.StatusCode.UNAVAILABLE)


async def test_who_asks_for_its_state_lets_a_channel_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_jittered", lambda _: HANG_S)
    monkeypatch.setattr(links, "_QUICK_S", HANG_S)
    monkeypatch.setattr(links, "_BEGIN_S", 0.0)
    async with server(echo) as (_, port):
        pass
    async with client(port) as (channel, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        async with server(echo, port):
            await _until_ready(channel)


async def test_a_peer_that_lets_attempts_wait_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "_jittered", lambda _: HANG_S)
    monkeypatch.setattr(links, "_QUICK_S", 0.0)
    monkeypatch.setattr(links, "_BEGIN_S", 0.0)
    async with server(echo) as (_, port):
        pass
    async with client(port) as (channel, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        async with server(echo, port):
            assert channel.get_state(True) is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            await expect_code(call, grpc.StatusCode.UNAVAILABLE)


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
    most = running = refused = 0

    async def handler(request: bytes, _context: Any) -> bytes:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return request

    options = [("grpc.max_concurrent_streams", 2)]
    async with server(handler, options=options) as (_, port), client(port) as (_, call):

        async def answer(request: bytes) -> bytes:
            nonlocal refused
            while True:
                try:
                    return await call(request)
                except grpc.aio.AioRpcError as error:
                    if f"HTTP/2 error {frames.REFUSED_STREAM}" not in (error.details() or ""):
                        raise
                    refused += 1

        await call(b"")
        assert await asyncio.gather(*(answer(b"%d" % n) for n in range(40))) == [b"%d" % n for n in range(40)]
    assert most <= 2
    # The server counts a call a moment longer than we see it, so it may refuse one twice, which is told. Who
    # does not keep to its number is refused many times.
    assert refused <= 5


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
        ("eta:0", None),
        ("eta:65536", None),
        ("eta:²", None),
        ("ëta:50051", None),
        ("dns://8.8.8.8/eta:50051", None),
    ],
)
def test_targets_of_a_host_and_a_port_are_spoken(target: str, address: tuple[str, int] | None) -> None:
    assert address_of(target) == address


async def test_a_connection_that_has_had_all_its_calls_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_connection, "_LAST_STREAM", 6)

    async with server(echo) as (_, port), client(port) as (_, call):
        for n in range(20):
            assert await call(b"%d" % n, timeout=HANG_S) == b"%d" % n
