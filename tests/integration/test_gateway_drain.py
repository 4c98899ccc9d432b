"""Leaving without losing a request: the old process drains while its successor takes over the port."""

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from gateway_rig import GPS, gateway, took_in

from tests.processes import until


async def test_a_request_under_way_is_finished_and_its_connection_ends_after_it() -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def waits(request: Any, context: Any) -> Any:
        arrived.set()
        await go_on.wait()
        return await took_in(request, context)

    async with gateway({"ReportGps": waits}) as rig:
        client = rig.client()
        asking = asyncio.create_task(client.task("report_gps", GPS))
        await arrived.wait()
        draining = asyncio.create_task(rig.gateway.http.drain(0))
        await until(lambda: rig.gateway.status.draining, "the drain has begun")
        go_on.set()
        reply = await asking
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        await draining


async def test_while_draining_readiness_says_no_and_requests_are_still_answered() -> None:
    async with gateway() as rig:
        idle, other = rig.client(), rig.client()
        assert (await idle.task("report_gps", GPS)).status == 200
        draining = asyncio.create_task(rig.gateway.http.drain(0.5))
        await until(lambda: rig.gateway.status.draining, "the drain has begun")
        last = await idle.task("report_gps", GPS)  # on the connection that was open before
        assert last.status == 200
        assert last.headers["connection"] == "close"
        health = await other.ask("GET", "/health/ready")
        assert health.status == 503
        assert health.json["status"] == "draining"
        assert health.json["reason"] == "DRAINING"
        assert "retry-after" in health.headers
        assert (await other.ask("GET", "/health/live")).status == 200
        await draining


async def test_idle_connections_end_once_the_window_is_over() -> None:
    async with gateway() as rig:
        client = rig.client()
        await client.task("report_gps", GPS)
        reader, _ = await client.connect()
        await rig.gateway.http.drain(0)
        assert await reader.read() == b""


async def test_a_successor_takes_over_the_port_without_a_failed_request() -> None:
    """Ten clients, half of them with a new connection for each request, through three restarts."""
    stop = asyncio.Event()
    done = 0

    async def load(port: int, keep: bool, rig: Any) -> None:
        nonlocal done
        from gateway_rig import Client

        client = Client(port)
        while not stop.is_set():
            reply = await client.task("report_gps", GPS)
            assert reply.status == 200, reply.body
            done += 1
            if not keep:
                await client.close()
        await client.close()

    rates = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    async with gateway(**rates) as first:
        port = first.gateway.public.port
        loads = [asyncio.create_task(load(port, n % 2 == 0, first)) for n in range(10)]
        old = first
        for _ in range(3):
            so_far = done
            fresh = await first.stack.enter_async_context(gateway(port=port, **rates))
            while done < so_far + 200:
                await asyncio.sleep(0.001)
                assert not any(task.done() for task in loads), [task for task in loads if task.done()]
            await old.gateway.http.drain(0.05)
            assert not old.gateway.http._connections.open
            old = fresh
        so_far = done
        while done < so_far + 200:
            await asyncio.sleep(0.001)
            assert not any(task.done() for task in loads)
        stop.set()
        await asyncio.gather(*loads)
    assert done > 800


@pytest.mark.parametrize("turns", range(8))
async def test_a_connection_that_is_being_accepted_at_the_end_ends_like_all_others(turns: int) -> None:
    """How far it has come depends on how often the loop has turned since."""
    faults: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: faults.append(context))
    async with gateway() as rig:
        with socket.create_connection(("127.0.0.1", rig.gateway.public.port)) as client:
            client.settimeout(20)
            for _ in range(turns):
                await asyncio.sleep(0)
            await rig.gateway.http.stop()
            assert not rig.gateway.http._connections.open
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(client.recv, 1) == b""
    assert faults == []
