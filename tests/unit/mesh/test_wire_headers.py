"""Headers of HTTP/2 without a dynamic table, against the examples of RFC 7541."""

import time
from asyncio import Future, new_event_loop

import grpc
import pytest

from services.mesh.wire import frames, headers
from services.mesh.wire.stream import Stream
from services.mesh.wire.unary import timeout_text


def test_a_literal_is_read() -> None:
    block = bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572")  # C.2.1

    assert headers.decode(block) == {"custom-key": b"custom-header"}


def test_a_request_in_huffman_code_is_read() -> None:
    block = bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")  # C.4.1

    assert headers.decode(block) == {
        ":method": b"GET",
        ":scheme": b"http",
        ":path": b"/",
        ":authority": b"www.example.com",
    }


def test_a_response_in_huffman_code_is_read() -> None:
    # C.6.1, whose names come from the static table
    block = bytes.fromhex(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
    )

    assert headers.decode(block) == {
        ":status": b"302",
        "cache-control": b"private",
        "date": b"Mon, 21 Oct 2013 20:13:21 GMT",
        "location": b"https://www.example.com",
    }


@pytest.mark.parametrize(("value", "coded"), [(10, "0a"), (1337, "1f9a0a")])
def test_numbers_are_written_as_in_the_examples(value: int, coded: str) -> None:
    assert headers.integer(value, 5).hex() == coded  # C.1.1, C.1.2


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 5000])
def test_what_is_written_is_read_again(length: int) -> None:
    value = b"x" * length

    assert headers.decode(headers.name("x-long") + headers.text(value)) == {"x-long": value}


def test_the_head_of_a_request_is_read_again() -> None:
    assert headers.decode(headers.request_head("/a.B/C", "eta:50051")) == {
        ":method": b"POST",
        ":scheme": b"http",
        ":path": b"/a.B/C",
        ":authority": b"eta:50051",
    }


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",  # entry 0
        b"\xbe",  # entry 62: of a table that was not allowed
        b"\x3f\xe1\x1f",  # a table that was not allowed
        b"\x00\x05abc",  # ends in a name
        b"\x00\x01a\x05abc",  # ends in a value
        b"\x00\x01a\xff\xff\xff\xff\xff\xff\x7f",  # a length without end
        b"\x00\x01a\x81\x00",  # wrong padding
        b"\x00\x01a\x84\xff\xff\xff\xff",  # the end of the string inside
        b"\x00\x01\xe9\x01a",  # a name that is no ASCII
        b"\x00",
    ],
)
def test_a_block_that_is_none_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w+"):
        headers.decode(block)


def test_what_is_told_of_a_bad_block_is_short() -> None:
    with pytest.raises(ValueError, match=r"\w+") as raised:
        headers.decode(b"\x00\x01a\xff" + b"\xff" * 10_000)

    assert len(str(raised.value)) < 200


def test_no_table_may_be_announced() -> None:
    assert headers.decode(b"\x20\x88") == {":status": b"200"}


def test_values_of_one_name_are_joined() -> None:
    block = headers.name("a") + headers.text(b"1") + headers.name("a") + headers.text(b"2")

    assert headers.decode(block) == {"a": b"1,2"}


@pytest.mark.parametrize("block", [b"\x88" * 2000, bytes(70_000)])
def test_more_than_was_asked_for_is_told_as_such(block: bytes) -> None:
    with pytest.raises(headers.TooLargeError):
        headers.decode(block)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1e-9, b"1u"),
        (-1.0, b"1u"),
        (0.0004, b"400u"),
        (0.29, b"290000u"),
        (99.999_999, b"99999999u"),
        (100.0, b"100000m"),
        (100_000.0, b"100000S"),
        (1e12, b"99999999S"),
    ],
)
def test_a_time_is_told_in_the_finest_unit_that_holds_it(seconds: float, text: bytes) -> None:
    assert timeout_text(seconds) == text


@pytest.mark.parametrize(
    ("left_s", "code"), [(-0.001, grpc.StatusCode.DEADLINE_EXCEEDED), (60.0, grpc.StatusCode.CANCELLED)]
)
def test_a_peer_that_cancels_when_the_time_is_up_says_so(left_s: float, code: grpc.StatusCode) -> None:
    loop = new_event_loop()
    try:
        done: Future[bytes] = loop.create_future()
        stream = Stream(1, done, 10, lambda _: None)
        stream.until = time.monotonic() + left_s
        stream.on_reset(frames.CANCEL)
        error = done.exception()
    finally:
        loop.close()
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is code
