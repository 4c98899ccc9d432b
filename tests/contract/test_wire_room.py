"""How the mesh's own unary client shares what a peer takes: windows, calls at once, bytes it reads."""

import asyncio
import struct
import tracemalloc
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import pytest
from wire_rig import (
    DATA,
    HANG_S,
    HEADERS,
    OK_HEAD,
    OK_TRAILER,
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
    scripted,
    setting,
)

from services.mesh.wire import connection as wire_connection

MOST = (1 << 31) - 1
WIDE = setting(4, MOST)  # all that a peer can take, as far as windows go


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


async def test_padding_does_not_use_up_the_room_for_a_response() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readexactly(24)
        _, _, _, payload = await peer.of(SETTINGS)
        room = dict(struct.iter_unpack(">HI", payload))[4]
        peer.send(frame(SETTINGS, 0, 0))
        number = await peer.call()
        peer.send(frame(HEADERS, 4, number, OK_HEAD))
        message = struct.pack(">BI", 0, 1000) + bytes(1000)
        for byte in message:
            while room < 257:
                _, _, of, payload = await peer.of(WINDOW)
                room += int.from_bytes(payload) if of == number else 0
            peer.send(frame(DATA, 8, number, bytes((255, byte)) + bytes(255)))
            room -= 257
        peer.send(frame(HEADERS, 5, number, OK_TRAILER))

    async with scripted(script) as (_, call):
        assert await call(b"", timeout=HANG_S) == bytes(1000)


async def test_a_window_below_nothing_is_filled_up_before_more_is_sent() -> None:
    sizes: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet(setting(4, 50))
        _, _, number, piece = await peer.of(DATA)
        sizes.append(len(piece))
        peer.send(frame(SETTINGS, 0, 0, setting(4, 10)))  # 40 less than nothing
        peer.send(frame(WINDOW, 0, number, number_of(40)) + frame(PING, 0, 0, bytes(8)))
        while (
            True
        ):  # what is answered after the window was filled to nothing comes before more of the message
            kind, _, _, piece = await peer.next()
            if kind == PING:
                break
            sizes.append(len(piece))
        peer.send(frame(WINDOW, 0, number, number_of(7)))
        _, _, _, piece = await peer.of(DATA)
        sizes.append(len(piece))
        peer.send(frame(WINDOW, 0, number, number_of(1000)))
        peer.send(answer(await peer.call()))

    async with scripted(script) as (_, call):
        assert await call(bytes(95), timeout=HANG_S) == b"ok"
    assert sizes == [50, 7]


async def test_those_who_wait_are_served_before_those_who_come_later() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(setting(3, 1))
        while True:
            peer.send(answer(await peer.call()))

    done: list[str] = []

    async def calls(name: str, times: int) -> None:
        for _ in range(times):
            await call(b"", timeout=HANG_S)
            done.append(name)

    async with scripted(script) as (_, call):
        await call(b"")
        await asyncio.gather(calls("many", 50), calls("one", 1))
    assert done.index("one") <= 1


async def test_a_caller_who_goes_as_its_turn_comes_leaves_the_turn_to_the_next() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet(setting(3, 1))
        while True:
            number = await peer.call()
            await asyncio.sleep(0)
            peer.send(answer(number))

    async with scripted(script) as (_, call):
        for n in range(60):
            calling = [asyncio.ensure_future(call(b"", timeout=HANG_S)) for _ in range(6)]
            for _ in range(n):
                await asyncio.sleep(0)
            for each in calling[1:5]:
                each.cancel()
            results = await asyncio.gather(*calling, return_exceptions=True)
            assert [results[0], results[5]] == [b"ok", b"ok"]


async def test_calls_that_gave_up_waiting_are_forgotten() -> None:
    begun = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.greet(setting(3, 1))
        await peer.call()
        begun.set()
        await asyncio.Event().wait()

    async with scripted(script, max_message_bytes=200_000) as (_, call):
        first = asyncio.ensure_future(call(b"", timeout=HANG_S))
        await begun.wait()
        tracemalloc.start()
        try:
            for _ in range(5):
                waiting = [
                    asyncio.ensure_future(call(bytes(100_000), timeout=0.02 if n % 2 else HANG_S))
                    for n in range(40)
                ]
                await asyncio.sleep(0)
                for each in waiting[::2]:
                    each.cancel()
                for result in await asyncio.gather(*waiting, return_exceptions=True):
                    assert isinstance(result, asyncio.CancelledError | grpc.aio.AioRpcError)
                del waiting, result
            await asyncio.sleep(0)  # in which the loop lets go of what it has just run
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        first.cancel()
    assert held < 2_000_000


async def test_a_lowered_limit_holds_and_a_raised_one_lets_more_in() -> None:
    counts: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet(setting(3, 0))
        peer.send(frame(SETTINGS, 0, 0, setting(3, 3)))
        numbers = [await peer.call() for _ in range(3)]
        peer.send(frame(SETTINGS, 0, 0, setting(3, 1)) + answer(numbers.pop()) + answer(numbers.pop()))
        peer.send(frame(PING, 0, 0, bytes(8)))
        counts.append(Counter([(await peer.next())[0]])[PING])  # nothing began in between
        peer.send(answer(numbers.pop()))
        while True:
            peer.send(answer(await peer.call()))

    async with scripted(script) as (_, call):
        assert await asyncio.gather(*(call(b"", timeout=HANG_S) for _ in range(8))) == [b"ok"] * 8
    assert counts == [1]


# --- peers that do not read ---------------------------------------------------------------------------------


def stop_reading(peer: Peer) -> None:
    transport: Any = peer.writer.transport
    transport.pause_reading()


def read_again(peer: Peer) -> None:
    transport: Any = peer.writer.transport
    transport.resume_reading()


async def test_requests_that_a_peer_does_not_read_are_not_heaped_up() -> None:
    stopped, go_on = asyncio.Event(), asyncio.Event()
    taken: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.greet(WIDE)
        peer.send(frame(WINDOW, 0, 0, number_of(MOST - 65_535)))
        peer.send(answer(await peer.call()))
        stop_reading(peer)
        stopped.set()
        await go_on.wait()
        read_again(peer)
        while True:
            kind, flags, number, _ = await peer.any()
            if kind == DATA and flags & 1:
                taken.append(number)
                peer.send(answer(number))

    size = 500_000
    async with scripted(script, max_message_bytes=size) as (_, call):
        await call(b"")
        await stopped.wait()
        tracemalloc.start()
        try:
            hurried = [asyncio.ensure_future(call(bytes(size), timeout=0.2)) for _ in range(60)]
            for result in await asyncio.gather(*hurried, return_exceptions=True):
                assert isinstance(result, grpc.aio.AioRpcError)
                assert result.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            del hurried, result
            await asyncio.sleep(0)  # in which the loop lets go of what it has just run
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        patient = [asyncio.ensure_future(call(b"%d" % n, timeout=HANG_S)) for n in range(20)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*patient) == [b"ok"] * 20
    assert held < 8_000_000  # of 30 million
    assert len(taken) < 20 + 20  # those who have given up do not reach the peer at all


async def test_a_peer_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_connection, "_PING_AFTER_S", 0.05)
    monkeypatch.setattr(wire_connection, "_PONG_WITHIN_S", 0.05)

    async def script(peer: Peer) -> None:
        await peer.greet(WIDE)
        peer.send(frame(WINDOW, 0, 0, number_of(MOST - 65_535)))
        peer.send(answer(await peer.call()))
        stop_reading(peer)
        await asyncio.Event().wait()

    async with scripted(script, good, max_message_bytes=8_000_000) as (_, call):
        await call(b"")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(bytes(8_000_000), timeout=0.02)
        assert code_of(raised) is grpc.StatusCode.DEADLINE_EXCEEDED
        # Nobody's call is under way there now, but the next one must not wait for ever either.
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_a_peer_that_asks_without_reading_is_left() -> None:
    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(answer(await peer.call()))
        stop_reading(peer)
        with suppress(ConnectionError):
            while True:
                peer.send(frame(PING, 0, 0, bytes(8)) * 10_000)
                await peer.writer.drain()

    async with scripted(script, good) as (_, call):
        await call(b"")
        await expect_code(call, grpc.StatusCode.UNAVAILABLE)
        assert await call(b"", timeout=HANG_S) == b"good"


async def test_closing_soon_gives_up_a_peer_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_connection, "LINGER_S", 0.05)
    monkeypatch.setattr(wire_connection, "_PONG_WITHIN_S", 60.0)  # nor is it the silence that ends it
    go_on = asyncio.Event()
    lost: list[object] = []
    connection_lost = wire_connection.Connection.connection_lost

    def noted(self: Any, exc: Exception | None) -> None:
        connection_lost(self, exc)
        lost.append(exc)

    monkeypatch.setattr(wire_connection.Connection, "connection_lost", noted)

    async def script(peer: Peer) -> None:
        await peer.greet(WIDE)
        peer.send(frame(WINDOW, 0, 0, number_of(MOST - 65_535)))
        peer.send(answer(await peer.call()))
        stop_reading(peer)
        go_on.set()
        await asyncio.Event().wait()

    async with scripted(script, max_message_bytes=8_000_000) as (channel, call):
        await call(b"")
        await go_on.wait()
        calling = asyncio.ensure_future(call(bytes(8_000_000)))
        await asyncio.sleep(0)
        await channel.close()
        assert len(lost) == 1
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await calling
        assert code_of(raised) is grpc.StatusCode.CANCELLED
