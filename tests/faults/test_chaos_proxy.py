"""The proxy does to connections what it says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.faults.chaos.proxy import HOST, FaultProxy, Mode, tcp

# Only keeps a broken test from hanging.
GUARD_S = 20.0


@contextlib.asynccontextmanager
async def an_echo() -> AsyncIterator[FaultProxy]:
    """A proxy before a server that gives back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    proxy = FaultProxy("echo", tcp(HOST, server.sockets[0].getsockname()[1]))
    await proxy.start()
    try:
        async with asyncio.timeout(GUARD_S):
            yield proxy
    finally:
        await proxy.close()
        server.close()


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(HOST, proxy.port)


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: bytes) -> bytes:
    writer.write(what)
    await writer.drain()
    return await reader.readexactly(len(what))


async def test_what_is_sent_comes_through_and_so_does_the_end() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"x" * 300_000) == b"x" * 300_000
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_slow_is_as_late_as_it_says() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        await proxy.become(Mode.SLOW, latency_s=0.1, bytes_per_s=100_000)
        began = asyncio.get_running_loop().time()
        assert await said(reader, writer, b"y" * 10_000) == b"y" * 10_000
        # Twice through it: two pieces or more each way, 0.1 s in all for the bytes of one way.
        assert asyncio.get_running_loop().time() - began > 0.3
        writer.close()


async def test_a_stall_holds_everything_and_loses_nothing() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"one") == b"one"
        await proxy.become(Mode.STALL)
        answer = asyncio.create_task(said(reader, writer, b"two"))
        later = asyncio.create_task(connect(proxy))
        other_reader, other_writer = await later
        other = asyncio.create_task(said(other_reader, other_writer, b"three"))
        done, _ = await asyncio.wait((answer, other), timeout=0.2)
        assert not done
        await proxy.become(Mode.PASS)
        assert (await answer, await other) == (b"two", b"three")
        writer.close()
        other_writer.close()


async def test_half_open_takes_connections_and_answers_none_of_them() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        idle_reader, idle_writer = await connect(proxy)
        assert await said(reader, writer, b"one") == b"one"
        assert await said(idle_reader, idle_writer, b"one") == b"one"
        await proxy.become(Mode.HALF_OPEN)
        new_reader, new_writer = await connect(proxy)
        answers = [
            asyncio.create_task(said(reader, writer, b"two")),
            asyncio.create_task(said(new_reader, new_writer, b"two")),
        ]
        done, _ = await asyncio.wait(answers, timeout=0.2)
        assert not done
        await proxy.become(Mode.PASS)
        for answer in answers:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await answer
        # It had nothing to lose.
        assert await said(idle_reader, idle_writer, b"three") == b"three"
        for each in (writer, new_writer, idle_writer):
            each.close()


async def test_a_cut_resets_what_there_is_and_takes_what_comes() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"one") == b"one"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"two") == b"two"
        writer.close()


async def test_refused_are_old_and_new_and_the_port_comes_back() -> None:
    async with an_echo() as proxy:
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"one") == b"one"
        for _ in range(2):
            await proxy.become(Mode.REFUSE)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            with pytest.raises(ConnectionRefusedError):
                await connect(proxy)
            await proxy.become(Mode.PASS)
            reader, writer = await connect(proxy)
            assert await said(reader, writer, b"two") == b"two"
        writer.close()


async def test_without_an_upstream_a_connection_breaks_and_the_next_may_not() -> None:
    async with an_echo() as proxy:
        upstream, proxy.upstream = proxy.upstream, None
        reader, _ = await connect(proxy)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        proxy.upstream = upstream
        reader, writer = await connect(proxy)
        assert await said(reader, writer, b"two") == b"two"
        writer.close()
