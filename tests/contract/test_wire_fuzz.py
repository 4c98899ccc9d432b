"""The mesh's own unary client before peers that do anything: every call ends, the loop hears of nothing."""

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import grpc
import pytest
import uvloop
from wire_rig import (
    CONTINUATION,
    DATA,
    GOAWAY,
    HANG_S,
    HEADERS,
    OK_HEAD,
    PING,
    RST,
    SETTINGS,
    WINDOW,
    Peer,
    answer,
    field,
    frame,
    good,
    number_of,
    scripted,
    setting,
)

SEEDS = 160
AT_ONCE = 20
CALLS = 8


def some_frames(rng: random.Random, number: int) -> bytes:
    """What a peer might send about a call, or about nothing: well-formed, ill-formed, or no frame at all."""
    number = rng.choice([number, number, number, number, 0, 1, 2, number + 2, rng.randrange(1 << 32)])
    flags = rng.choice([0, 1, 4, 5, 8, 13, 32, rng.randrange(256)])
    body = rng.randbytes(rng.choice([0, 1, 4, 5, 6, 8, rng.randrange(300)]))
    match rng.randrange(14):
        case 0:
            return frame(rng.randrange(12), flags, number, body)
        case 1:
            return frame(HEADERS, flags, number, OK_HEAD)
        case 2:
            return frame(HEADERS, 4, number, OK_HEAD) + frame(DATA, flags, number, body)
        case 3:
            return frame(HEADERS, 5, number, OK_HEAD + field("grpc-status", b"%d" % rng.randrange(20)))
        case 4:
            return frame(HEADERS, 5, number, b"\x08\x03%d" % rng.randrange(100, 600))
        case 5:
            return frame(RST, 0, number, number_of(rng.randrange(15)))
        case 6:
            value = rng.choice([0, 1, 100, 16_384, (1 << 31) - 1, rng.randrange(1 << 32)])
            return frame(SETTINGS, 0, 0, setting(rng.randrange(8), value))
        case 7:
            return frame(
                WINDOW, 0, rng.choice([0, number]), number_of(rng.choice([0, 1, 900, (1 << 31) - 1]))
            )
        case 8:
            return frame(GOAWAY, 0, 0, number_of(rng.choice([0, number, (1 << 31) - 1])) + number_of(flags))
        case 9:
            return frame(PING, flags & 1, 0, rng.randbytes(8))
        case 10:
            return frame(HEADERS, 0, number, OK_HEAD[:3]) + frame(CONTINUATION, 4, number, OK_HEAD[3:])
        case 11:
            data = bytearray(answer(number))
            data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        case 12:
            return frame(HEADERS, flags, number, rng.randbytes(rng.randrange(40)))
        case _:
            return rng.randbytes(rng.randrange(60))


def wild(rng: random.Random) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        if rng.random() < 0.05:
            peer.send(some_frames(rng, 1))
        settings = [
            setting(key, rng.choice(values)) for key, values in ((3, [0, 1, 3, 100]), (4, [0, 7, 900]))
        ]
        await peer.greet(b"".join(each for each in settings if rng.random() < 0.4))
        number = 1
        transport: Any = peer.writer.transport
        while True:
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.005]))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    number = (await peer.next())[2] or number
            data = answer(number) if rng.random() < 0.5 else some_frames(rng, number)
            at = rng.randrange(len(data) + 1)
            if transport.is_closing():
                return
            peer.send(data[:at])
            if rng.random() < 0.2:
                await asyncio.sleep(0)
            if transport.is_closing():
                return
            if rng.random() < 0.98:
                peer.send(data[at:])
            match rng.randrange(60):
                case 0:
                    transport.abort()
                case 1:
                    peer.writer.write_eof()
                    return
                case 2:
                    transport.pause_reading()
                case 3:
                    transport.resume_reading()

    return script


async def one_life(seed: int) -> int:
    """A few connections' worth of calls; how many of them succeeded."""
    rng = random.Random(seed)
    async with scripted(
        wild(rng), wild(rng), wild(rng), good, max_message_bytes=20_000, attempt_s=0.05
    ) as both:
        channel, call = both

        async def one() -> bytes:
            await asyncio.sleep(rng.random() * 0.1)
            return await call(bytes(rng.choice([0, 10, 900, 20_000])), timeout=rng.choice([0.01, 0.1, 0.2]))

        calling = [asyncio.ensure_future(one()) for _ in range(CALLS)]
        for each in calling:
            if rng.random() < 0.1:
                asyncio.get_running_loop().call_later(rng.random() * 0.1, each.cancel)
        if rng.random() < 0.05:
            await asyncio.sleep(rng.random() * 0.1)
            await channel.close()
        done, hanging = await asyncio.wait(calling, timeout=HANG_S / 2)
        assert not hanging
        for each in done:
            if not each.cancelled():
                assert isinstance(each.exception(), grpc.aio.AioRpcError | None), seed
        return sum(not each.cancelled() and each.exception() is None for each in done)


@pytest.mark.parametrize("policy", [asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def test_every_call_ends_whatever_the_peer_does(
    policy: Callable[[], asyncio.AbstractEventLoopPolicy],
) -> None:
    told: list[dict[str, Any]] = []

    async def lives() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        succeeded = 0
        for first in range(0, SEEDS, AT_ONCE):
            succeeded += sum(await asyncio.gather(*map(one_life, range(first, first + AT_ONCE))))
        gc.collect()  # finds what nobody has awaited
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) == 1
        return succeeded

    with asyncio.Runner(loop_factory=policy().new_event_loop) as runner:
        succeeded = runner.run(lives())
    assert not told
    assert 0 < succeeded < SEEDS * CALLS  # both ways were gone


# --- a peer that keeps the rules, and sees that they are kept -----------------------------------------------


class Strict:
    """Grants a little at a time, answers each whole request with its length, and counts what comes."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.most_streams = rng.choice([1, 2, 5])
        self.initial = rng.choice([0, 1, 500, 65_535])
        self.max_frame = 16_384
        self.window = 65_535
        self.windows: dict[int, int] = {}
        self.sizes: dict[int, int] = {}
        self.last = -1
        # Settings that are on their way: they hold from their acknowledgement on.
        self.sent: list[tuple[int, int]] = []

    async def __call__(self, peer: Peer) -> None:
        rng = self.rng
        await peer.greet(setting(3, self.most_streams) + setting(4, self.initial))
        self.sent.append((self.initial, self.max_frame))
        while True:
            try:
                async with asyncio.timeout(0.002):
                    head = await peer.reader.readexactly(9)
            except TimeoutError:
                self.grant(peer)
                continue
            length, kind, flags = int.from_bytes(head[:3]), head[3], head[4]
            number = int.from_bytes(head[5:])
            payload = await peer.reader.readexactly(length)
            assert length <= self.max_frame
            self.take(kind, flags, number, payload)
            if kind == DATA and flags & 1:
                body = b"%d" % (self.sizes.pop(number) - 5)
                del self.windows[number]
                peer.send(answer(number, body))
            if rng.random() < 0.05:
                initial, max_frame = rng.choice([0, 300, 3000]), rng.choice([16_384, 30_000])
                self.sent.append((initial, max_frame))
                peer.send(frame(SETTINGS, 0, 0, setting(4, initial) + setting(5, max_frame)))

    def take(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == SETTINGS and flags & 1:
            initial, self.max_frame = self.sent.pop(0)
            for stream in self.windows:
                self.windows[stream] += initial - self.initial
            self.initial = initial
        elif kind == HEADERS:
            assert number & 1
            assert number > self.last
            self.last = number
            self.windows[number], self.sizes[number] = self.initial, 0
            assert len(self.windows) <= self.most_streams
        elif kind == DATA:
            self.window -= len(payload)
            self.windows[number] -= len(payload)
            self.sizes[number] += len(payload)
            assert self.window >= 0
            assert not payload or self.windows[number] >= 0
        elif kind == RST:
            self.windows.pop(number, None)  # unless it has crossed the answer
            self.sizes.pop(number, None)
        assert kind != GOAWAY

    def grant(self, peer: Peer) -> None:
        """More room for all, or for one, and now and then a question."""
        more = self.rng.choice([1, 700, 9000])
        number = self.rng.choice([0, *self.windows])
        if number == 0:
            self.window += more
        else:
            self.windows[number] += more
        peer.send(frame(WINDOW, 0, number, number_of(more)) + frame(PING, 0, 0, bytes(8)))


@pytest.mark.parametrize("first", range(0, 40, 20))
async def test_a_peers_limits_are_kept_whatever_they_are(first: int) -> None:
    async def life(seed: int) -> None:
        rng = random.Random(seed)
        sizes = [rng.choice([0, 1, 495, 496, 2000, 16_379, 18_000]) for _ in range(12)]
        async with scripted(Strict(rng), max_message_bytes=20_000) as (_, call):
            gone = [asyncio.ensure_future(call(bytes(9000), timeout=rng.random() * 0.02)) for _ in range(3)]
            got = await asyncio.gather(*(call(bytes(size), timeout=HANG_S) for size in sizes))
            await asyncio.gather(*gone, return_exceptions=True)
        assert got == [b"%d" % size for size in sizes]

    await asyncio.gather(*(life(seed) for seed in range(first, first + 20)))
