"""Connections of the mesh's own unary client: how they begin, break, end, and are followed by others."""

import asyncio
import logging
import socket
import struct
from contextlib import suppress
from typing import Any

import grpc
import hpack
import pytest
from wire_rig import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HANG_S,
    HEADERS,
    OK_HEAD,
    PATH,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Peer,
    answer,
    code_of,
    expect_code,
    frame,
    good,
    number_of,
    same,
    scripted,
    setting,
)

from services.mesh import logs
from services.mesh.wire import connection as wire_connection
from services.mesh.wire.channel import WireChannel

PROTOCOL, FLOW, SIZE, COMPRESSION = 1, 3, 6, 9


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


async def test_a_peer_that_refuses_again_has_enough_and_gets_no_more() -> None:
    calls = 0

    async def refusing(peer: Peer) -> None:
        nonlocal calls
        await peer.greet()
        while True:
            peer.send(frame(RST, 0, await peer.call(), number_of(7)))
            calls += 1

    async with scripted(refusing) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
    assert calls == 2


async def test_a_call_made_again_gets_what_is_left_of_its_time() -> None:
    times: list[int] = []

    async def refusing(peer: Peer) -> None:
        await peer.greet()
        while True:
            _, _, number, block = await peer.of(HEADERS)
            text = dict(hpack.Decoder().decode(block))["grpc-timeout"]
            assert text.endswith("u")
            times.append(int(text[:-1]))
            await asyncio.sleep(0.01)
            peer.send(frame(RST, 0, number, number_of(7)))

    async with scripted(refusing) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
    assert times[1] <= times[0] - 10_000 <= (HANG_S - 0.01) * 1e6


async def test_a_lost_connection_fails_what_was_sent() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        peer.writer.transport.abort()

    async with scripted(script, good) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_what_is_logged_of_a_connection_is_not_of_the_call_that_began_it() -> None:
    told: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(logs.request_id.get())

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(answer(await peer.call()) + frame(GOAWAY, 0, 0, number_of(1) + number_of(0)))

    logger = logging.getLogger("services.mesh.wire.links")
    note, level = Note(), logger.level
    logger.addHandler(note)
    logger.setLevel(logging.DEBUG)
    token = logs.request_id.set("of-the-first-call")
    try:
        async with scripted(script, good) as (_, call):
            assert await call(b"") == b"ok"
            assert await call(b"", timeout=HANG_S) == b"good"
    finally:
        logs.request_id.reset(token)
        logger.setLevel(level)
        logger.removeHandler(note)
    assert told
    assert set(told) == {""}


async def test_a_peer_that_never_speaks_is_no_connection() -> None:
    async def silent(peer: Peer) -> None:
        await asyncio.Event().wait()

    async with scripted(silent, attempt_s=0.05) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)


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


async def test_the_first_headers_say_that_no_table_is_used() -> None:
    blocks: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.greet(setting(1, 0))
        while True:
            _, _, number, block = await peer.of(HEADERS)
            blocks.append(block)
            peer.send(answer(number))

    async with scripted(script) as (_, call):
        for _ in range(3):
            await call(b"")

    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0  # it has lowered its limit, and wants to hear that this was noticed
    for block in blocks:
        assert (":path", PATH) in decoder.decode(block)


async def test_a_call_names_the_target_without_its_scheme() -> None:
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.greet()
        _, _, number, block = await peer.of(HEADERS)
        seen.append(dict(hpack.Decoder().decode(block))[":authority"])
        peer.send(answer(number))

    async with scripted(script) as (channel, _):
        port = channel.target.rpartition(":")[2]
        named = WireChannel(f"dns:///127.0.0.1:{port}", ("127.0.0.1", int(port)), max_message_bytes=1000)
        try:
            await named.unary(PATH, same, same)(b"", timeout=HANG_S)
        finally:
            await named.close()
    assert seen == [f"127.0.0.1:{port}"]


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (frame(DATA, 0, 0, b"x"), PROTOCOL),
        (frame(DATA, 0, 3, b"x"), PROTOCOL),  # not begun yet
        (frame(DATA, 0, 2, b"x"), PROTOCOL),  # of the peer's own, which it may not begin
        (frame(DATA, 8, 1, b""), PROTOCOL),
        (frame(HEADERS, 4, 0, OK_HEAD), PROTOCOL),
        (frame(HEADERS, 4, 7, OK_HEAD), PROTOCOL),
        (frame(HEADERS, 4 | 32, 1, b"abc"), SIZE),
        (frame(HEADERS, 4, 1, b"\xbe"), COMPRESSION),
        (frame(HEADERS, 0, 1, OK_HEAD) + frame(CONTINUATION, 4, 3), PROTOCOL),
        (frame(2, 0, 1, bytes(4)), SIZE),
        (frame(RST, 0, 0, number_of(8)), PROTOCOL),
        (frame(RST, 0, 5, number_of(8)), PROTOCOL),
        (frame(RST, 0, 1, bytes(3)), SIZE),
        (frame(SETTINGS, 0, 1, b""), PROTOCOL),
        (frame(SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(SETTINGS, 1, 0, setting(3, 1)), SIZE),
        (frame(SETTINGS, 0, 0, setting(4, 1 << 31)), FLOW),
        (frame(SETTINGS, 0, 0, setting(5, 0)), PROTOCOL),
        (frame(SETTINGS, 0, 0, setting(5, 1 << 24)), PROTOCOL),
        (frame(PING, 0, 0, bytes(7)), SIZE),
        (frame(PING, 0, 1, bytes(8)), PROTOCOL),
        (frame(GOAWAY, 0, 0, bytes(7)), SIZE),
        (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (frame(WINDOW, 0, 0, bytes(3)), SIZE),
        (frame(WINDOW, 0, 0, number_of(0)), PROTOCOL),
        (frame(WINDOW, 0, 9, number_of(1)), PROTOCOL),
        (frame(WINDOW, 0, 0, number_of((1 << 31) - 1)), FLOW),
    ],
)
async def test_a_peer_that_breaks_the_rules_is_told_and_left(said: bytes, error: int) -> None:
    told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        await peer.greet()
        assert await peer.call() == 1
        peer.send(said)
        _, _, _, payload = await peer.of(GOAWAY)
        told.set_result(int.from_bytes(payload[4:8]))

    async with scripted(script, good) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert await told == error
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_what_comes_late_for_a_call_that_has_ended_is_passed_over() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        number = await peer.call()
        late = frame(WINDOW, 0, number, number_of(9)) + frame(RST, 0, number, number_of(0))
        late += frame(DATA, 8, number, b"\x01x\x00") + frame(HEADERS, 5, number, b"\xbe")
        peer.send(answer(number, b"first") + late)
        peer.send(answer(await peer.call(), b"second"))

    async with scripted(script) as (_, call):
        assert await call(b"") == b"first"
        assert await call(b"", timeout=HANG_S) == b"second"


@pytest.mark.parametrize(
    "first", [frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 1, 0), frame(WINDOW, 0, 0, number_of(1))]
)
async def test_a_peer_that_does_not_begin_with_settings_is_none(first: bytes) -> None:
    async def script(peer: Peer) -> None:
        peer.send(first)
        await peer.greet()
        peer.send(answer(await peer.call(), b"wrong"))

    async with scripted(script) as (_, call):
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)


async def test_a_second_farewell_takes_back_what_the_first_one_promised() -> None:
    async def leaving(peer: Peer) -> None:
        await peer.greet()
        first, second = await peer.call(), await peer.call()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", (1 << 31) - 1, 0)))
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", first, 0)))
        assert second > first
        peer.send(answer(first, b"leaving"))

    async with scripted(leaving, good) as (_, call):
        assert await asyncio.gather(call(b""), call(b"")) == [b"leaving", b"good"]


async def test_a_call_that_nobody_looks_at_tells_what_the_last_one_said() -> None:
    async def leaving(peer: Peer) -> None:
        await peer.greet()
        await peer.call()
        peer.send(frame(GOAWAY, 0, 0, number_of(0) + number_of(11) + b"too many\xff\npings"))

    async with scripted(leaving) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", timeout=HANG_S)
    assert code_of(raised) is grpc.StatusCode.UNAVAILABLE
    assert "error 11, saying 'too many\\ufffd\\npings'" in str(raised.value.details())


async def ends(peer: Peer) -> None:
    """Reads until the client has closed the connection."""
    while await peer.reader.read(1 << 16):
        pass


async def test_closing_ends_calls_that_a_leaving_peer_still_has() -> None:
    left, ended = asyncio.Event(), asyncio.Event()

    async def leaving(peer: Peer) -> None:
        await peer.greet()
        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", await peer.call(), 0)))
        left.set()
        with suppress(ConnectionError):
            await ends(peer)
        ended.set()

    async with scripted(leaving, good) as (channel, call):
        calling = asyncio.ensure_future(call(b"", timeout=HANG_S))
        await left.wait()
        assert await call(b"", timeout=HANG_S) == b"good"
        await channel.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calling
        assert code_of(raised) is grpc.StatusCode.CANCELLED
        await ended.wait()


async def test_closing_while_a_connection_is_made_leaves_none() -> None:
    accepted, ended = asyncio.Event(), asyncio.Event()

    async def silent(peer: Peer) -> None:
        await peer.reader.readexactly(24)
        accepted.set()
        with suppress(ConnectionError):
            await ends(peer)
        ended.set()

    async with scripted(silent) as (channel, call):
        calling = asyncio.ensure_future(call(b""))
        await accepted.wait()
        await channel.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calling
        assert code_of(raised) is grpc.StatusCode.CANCELLED
        await ended.wait()
        assert channel.get_state(True) is grpc.ChannelConnectivity.SHUTDOWN


async def test_a_target_seen_alive_during_an_attempt_is_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("services.mesh.wire.links._BEGIN_S", 2 * HANG_S)
    accepted, go_on = asyncio.Event(), asyncio.Event()

    async def failing(peer: Peer) -> None:
        accepted.set()
        await go_on.wait()
        peer.writer.transport.abort()

    async with scripted(failing, good) as (channel, call):
        calling = asyncio.ensure_future(call(b""))
        await accepted.wait()
        channel.expect()
        go_on.set()
        assert await calling == b"good"


async def test_a_machine_that_has_gone_without_a_word_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        pytest.skip("an option of Linux")
    made: list[int] = []
    connection_made = wire_connection.Connection.connection_made

    def noted(self: Any, transport: Any) -> None:
        connection_made(self, transport)
        made.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, option))

    monkeypatch.setattr(wire_connection.Connection, "connection_made", noted)
    async with scripted(good) as (_, call):
        await call(b"")
    assert made == [10_000]


# --- several addresses --------------------------------------------------------------------------------------


async def test_calls_go_to_all_addresses_and_follow_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["127.0.0.1", "127.0.0.2"]
    served: list[str] = []

    def script(address: str) -> Any:
        async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            peer = Peer(reader, writer)
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await peer.greet()
                while True:
                    number = await peer.call()
                    served.append(address)
                    if address in addresses:
                        peer.send(answer(number, address.encode()))
                    else:
                        peer.send(frame(GOAWAY, 0, 0, struct.pack(">II", number, 0)))
                        peer.send(answer(number, b"the last"))
            writer.transport.abort()

        return serving

    first = await asyncio.start_server(script("127.0.0.1"), "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    others = ("127.0.0.2", "127.0.0.3")
    listeners = [first, *[await asyncio.start_server(script(other), other, port) for other in others]]

    async def resolved(*_args: Any, **_kwargs: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    channel = WireChannel(f"eta:{port}", ("eta", port), max_message_bytes=1000)
    call = channel.unary(PATH, same, same)
    try:
        async with asyncio.timeout(HANG_S):
            seen: set[bytes] = set()
            while seen != {b"127.0.0.1", b"127.0.0.2"}:
                seen.add(await call(b""))
                await asyncio.sleep(0)
            addresses[0] = "127.0.0.3"
            # The first one ends its connection, as servers do when they go; then names are looked up again.
            while b"127.0.0.3" not in seen:
                seen.add(await call(b""))
                await asyncio.sleep(0)
            del served[:]
            for _ in range(10):
                await call(b"")
            assert set(served) == {"127.0.0.2", "127.0.0.3"}
    finally:
        await channel.close()
        for listener in listeners:
            listener.close()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["a" * 70, "a..b", "nowhere.invalid"])
async def test_a_name_that_is_none_fails_calls_at_once(host: str) -> None:
    channel = WireChannel(f"{host}:1", (host, 1), max_message_bytes=1000)
    try:
        async with asyncio.timeout(HANG_S):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await channel.unary(PATH, same, same)(b"")
        assert code_of(raised) is grpc.StatusCode.UNAVAILABLE
    finally:
        await channel.close()
