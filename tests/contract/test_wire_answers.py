"""The mesh's own unary client before a peer that answers in every way there is, good or bad."""

import asyncio
import gc
import struct
from contextlib import suppress

import grpc
import pytest
from wire_rig import (
    CONTINUATION,
    DATA,
    HANG_S,
    HEADERS,
    MIB,
    OK_HEAD,
    OK_TRAILER,
    PATH,
    PING,
    PUSH,
    RST,
    Peer,
    answer,
    client,
    echo,
    expect_code,
    field,
    frame,
    good,
    number_of,
    same,
    scripted,
    server,
)

from services.mesh.wire import headers

MESSAGE = struct.pack(">BI", 0, 2) + b"ok"


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
        (frame(HEADERS, 5, 1, OK_HEAD + field("grpc-status", b"77x")), grpc.StatusCode.UNKNOWN),
        (frame(HEADERS, 5, 1, OK_HEAD + field("grpc-status", b"14")), grpc.StatusCode.UNAVAILABLE),
        (frame(HEADERS, 5, 1, OK_HEAD + OK_TRAILER + OK_TRAILER), grpc.StatusCode.UNKNOWN),
        (frame(HEADERS, 5, 1, OK_HEAD), grpc.StatusCode.UNKNOWN),
        # An answer in the wrong order, or that ends amid:
        (frame(HEADERS, 5, 1, b"\x08\x03103"), grpc.StatusCode.UNKNOWN),
        (frame(DATA, 0, 1, MESSAGE), grpc.StatusCode.INTERNAL),
        (
            frame(HEADERS, 4, 1, OK_HEAD) + frame(HEADERS, 4, 1, field("x", b"y")),
            grpc.StatusCode.INTERNAL,
        ),
        (
            frame(HEADERS, 4, 1, b"\x88" + field("content-type", b"application/grpc-web+proto")),
            grpc.StatusCode.UNKNOWN,
        ),
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


async def test_an_answer_may_name_its_messages_form_and_have_a_reserved_bit_set() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        head = b"\x88" + field("content-type", b"application/grpc+proto")
        reserved = number | 1 << 31
        peer.send(frame(HEADERS, 4, reserved, head) + frame(DATA, 0, reserved, MESSAGE))
        peer.send(frame(HEADERS, 5, reserved, OK_TRAILER))

    async with scripted(script) as (_, call):
        assert await call(b"") == b"ok"


async def test_more_headers_than_were_asked_for_fail_their_call_and_no_other() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        first, second, third = await peer.call(), await peer.call(), await peer.call()
        much = b"".join(field(f"x{n}", b"v" * 100) for n in range(120))
        peer.send(frame(HEADERS, 0, first, OK_HEAD))
        for _ in range(20):
            peer.send(frame(CONTINUATION, 0, first, much))
        peer.send(frame(CONTINUATION, 4, first))
        # A short block of many headers is too much as well: each counts 32 bytes besides its text.
        peer.send(frame(HEADERS, 4, second, OK_HEAD + b"\x88" * 2000))
        peer.send(answer(third))

    async with scripted(script) as (_, call):
        first, second, third = (asyncio.ensure_future(call(b"", timeout=HANG_S)) for _ in range(3))
        for calling in (first, second):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await calling
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await third == b"ok"


async def failure_with(*fields: bytes) -> grpc.aio.AioRpcError:
    """What a call raises whose trailers hold these fields."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(frame(HEADERS, 5, await peer.call(), OK_HEAD + b"".join(fields)))

    async with scripted(script) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", timeout=HANG_S)
    return raised.value


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b"caf%C3%A9 100%25", "café 100%"),
        (b"50% of %zz%", "50% of %zz%"),  # what is no escape stands for itself
        ("café".encode(), "café"),
        (b"%ff!", "\ufffd!"),
    ],
)
async def test_a_message_is_read_however_it_is_written(sent: bytes, read: str) -> None:
    error = await failure_with(field("grpc-status", b"5"), field("grpc-message", sent))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == read


async def test_metadata_of_one_name_is_kept_whole() -> None:
    error = await failure_with(
        field("grpc-status", b"5"),
        field("a-bin", b"AAA"),
        field("a-bin", b"/w==,AQ"),
        field("b-bin", b"no base64!"),
        field("text", b"1"),
        field("text", b"2"),
    )

    assert list(error.trailing_metadata() or ()) == [
        ("a-bin", b"\x00\x00"),
        ("a-bin", b"\xff"),
        ("a-bin", b"\x01"),
        ("b-bin", b""),
        ("text", "1,2"),
    ]


async def test_a_response_that_cannot_be_read_is_a_failure_of_the_call() -> None:
    def unreadable(_message: bytes) -> None:
        raise ValueError("not ours")

    async with server(echo) as (_, port), client(port) as (channel, _):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary(PATH, same, unreadable)(b"", timeout=HANG_S)
    assert raised.value.code() is grpc.StatusCode.INTERNAL


async def test_answers_that_never_repeat_do_not_keep_others_from_being_known() -> None:
    for n in range(1000):
        headers.decode(b"\x88" + field("date", b"%d" % n))

    assert headers.decode(b"\x88" + field("x", b"again")) is headers.decode(b"\x88" + field("x", b"again"))


@pytest.mark.parametrize("failed_by", ["status", "deadline", "nobody", "refusal"])
async def test_a_failed_call_leaves_no_cycle_behind(failed_by: str) -> None:
    async def script(peer: Peer) -> None:
        if failed_by == "nobody":
            peer.writer.transport.abort()
            return
        await peer.greet()
        while True:
            number = await peer.call()
            if failed_by == "refusal":
                peer.send(frame(RST, 0, number, number_of(7)))
            elif failed_by == "status":
                peer.send(frame(HEADERS, 5, number, OK_HEAD + field("grpc-status", b"5")))

    async with scripted(script, max_message_bytes=MIB) as (_, call):

        async def fail() -> None:
            with suppress(grpc.aio.AioRpcError):
                await call(b"", timeout=0.01 if failed_by == "deadline" else HANG_S)

        await fail()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await fail()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            assert not [each for each in gc.garbage if isinstance(each, grpc.aio.AioRpcError)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
