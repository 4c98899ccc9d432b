"""Many connections at once, and clients that ask and do not read: bounded, and told."""

import asyncio
import contextlib
import resource
import socket

import pytest
from gateway_rig import GPS, Client, gateway

from services.gateway.crowd import room_for
from tests.processes import until

MOST = 64
BEGUN = b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Le"
# An answer of some size that needs no key.
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


async def connections(port: int, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(count)]


def close(opened: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    for _, writer in opened:
        writer.close()


async def test_a_new_client_takes_the_place_of_the_one_that_has_been_silent_for_longest() -> None:
    async with gateway(max_connections=MOST) as rig, asyncio.timeout(60):
        crowd = rig.gateway.http._connections.crowd
        opened = await connections(rig.gateway.public.port, MOST)
        await until(lambda: crowd.size == MOST, "all are connected")
        client = rig.client()
        assert (await client.task("report_gps", GPS)).status == 200
        assert await opened[0][0].read() == b""
        close(opened)


async def test_a_new_client_is_told_to_come_again_while_all_others_are_about_to_ask() -> None:
    async with gateway(max_connections=MOST) as rig, asyncio.timeout(60):
        connected = rig.gateway.http._connections
        opened = await connections(rig.gateway.public.port, MOST)
        for _, writer in opened:
            writer.write(BEGUN)
        await until(lambda: not connected.crowd._quiet and connected.crowd.size == MOST, "all have begun")
        late = Client(rig.gateway.public.port)
        reply = await late.receive()
        assert (reply.status, reply.json["reason"]) == (503, "OVERLOADED")
        assert reply.headers["retry-after"] == "1"
        close(opened)
        await until(lambda: connected.crowd.size == 0, "all have gone")
        assert (await late.ask("GET", "/health/live")).status == 200
        await late.close()


def unread(port: int) -> socket.socket:
    """A client that asks for more than the kernel holds for it, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(LARGE * 100)
    return client


async def test_clients_that_do_not_read_are_left_once_there_are_too_many_of_them() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        connected = rig.gateway.http._connections
        connected.crowd.max_unread = 2
        with contextlib.ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(unread(rig.gateway.public.port))
            await until(lambda: len(connected.open) == 2 == len(connected.crowd._unread), "two were left")
            assert (await rig.client().ask("GET", "/health/live")).status == 200


async def test_a_client_that_has_not_read_for_long_is_left() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        connected = rig.gateway.http._connections
        connected.unread_s = 0.1
        with unread(rig.gateway.public.port):
            await until(lambda: connected.crowd.size == 1, "it is connected")
            await until(lambda: not connected.open, "it was left")


@pytest.mark.parametrize(("soft", "most", "room"), [(1024, 64, 64), (300, 64, 44)])
def test_what_files_may_be_open_bounds_how_many_there_are(soft: int, most: int, room: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits: list[tuple[int, int]] = [before]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resource, "getrlimit", lambda _which: (min(soft, 256), soft))
        patch.setattr(resource, "setrlimit", lambda _which, new: limits.append(new))
        assert room_for(most) == room
    assert limits[-1][0] <= soft
