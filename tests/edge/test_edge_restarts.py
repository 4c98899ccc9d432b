"""Gateways and Envoys that come and go behind and in front of traffic: no request fails of it."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.edge.edge_rig import running_edge
from tests.edge.replicas import DRAIN_S, Asking, end, eta_service, gateway_process, kill
from tests.integration.gateway_rig import GPS, Client, took_in
from tests.processes import until
from tools.ports import free_ports

pytestmark = pytest.mark.faults


async def test_replicas_that_are_replaced_one_after_the_other_fail_nobody(tmp_path: Path) -> None:
    """As a Deployment does it: one ends in its own time, and another one comes in its place."""
    async with eta_service() as eta:
        ports = free_ports(2)
        replicas = await asyncio.gather(*(gateway_process(tmp_path, port, eta) for port in ports))
        running = dict(zip(ports, replicas, strict=True))
        try:
            addresses = {"gateway": [f"127.0.0.1:{port}" for port in ports]}
            async with running_edge(tmp_path, addresses) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy" for port in ports})
                async with Asking(edge.public) as asking:
                    for port in ports:
                        await asking.more(50)
                        await end(running[port])
                        running[port] = await gateway_process(tmp_path, port, eta)
                        await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                    await asking.more(50)
                assert (asking.statuses.keys(), asking.broken) == ({200}, [])
        finally:
            await asyncio.gather(
                *(end(process) for process in running.values() if process.returncode is None)
            )


async def test_a_successor_on_the_same_port_fails_nobody(tmp_path: Path) -> None:
    """As `waymesh restart` does it; the only replica, so that there is no other to go to."""
    async with eta_service() as eta:
        [port] = free_ports(1)
        old = await gateway_process(tmp_path, port, eta)
        try:
            async with running_edge(tmp_path, {"gateway": [f"127.0.0.1:{port}"]}) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                async with Asking(edge.public) as asking:
                    await asking.more(50)
                    fresh = await gateway_process(tmp_path, port, eta)
                    await end(old)
                    old = fresh
                    await asking.more(200)
                assert (asking.statuses.keys(), asking.broken) == ({200}, [])
        finally:
            await kill(old)


async def test_a_gateway_that_ends_has_no_idle_connection_that_the_edge_still_uses(tmp_path: Path) -> None:
    """Not even an edge that is too busy to see them end, and then has many requests at once."""
    arrived: asyncio.Queue[None] = asyncio.Queue()
    go_on = asyncio.Event()

    async def all_at_once(request: Any, context: Any) -> Any:
        arrived.put_nowait(None)
        await go_on.wait()
        return await took_in(request, context)

    async with eta_service(all_at_once) as eta:
        [port] = free_ports(1)
        old = await gateway_process(tmp_path, port, eta)
        try:
            async with running_edge(tmp_path, {"gateway": [f"127.0.0.1:{port}"]}) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                clients = [Client(edge.public) for _ in range(8)]
                asking = [asyncio.create_task(client.task("report_gps", GPS)) for client in clients]
                for _ in clients:
                    await arrived.get()
                go_on.set()
                assert {reply.status for reply in await asyncio.gather(*asking)} == {200}

                fresh = await gateway_process(tmp_path, port, eta)
                old.terminate()
                await asyncio.sleep(DRAIN_S - 0.4)
                # Whatever it has to do, it does not see what ends now before it has sent more requests.
                edge.process.send_signal(signal.SIGSTOP)
                asking = [asyncio.create_task(client.task("report_gps", GPS)) for client in clients]
                await old.wait()
                old = fresh
                edge.process.send_signal(signal.SIGCONT)
                statuses = [reply.status for reply in await asyncio.gather(*asking)]
                await asyncio.gather(*(client.close() for client in clients))
                assert statuses == [200] * len(clients)
        finally:
            await kill(old)


async def test_the_edge_itself_is_replaced_without_a_failed_request(tmp_path: Path) -> None:
    """A hot restart: the next Envoy has the listeners from the one before, which drains."""
    options = ("--base-id", str(free_ports(1)[0]), "--drain-time-s", "2", "--parent-shutdown-time-s", "4")
    async with eta_service() as eta:
        [port] = free_ports(1)
        gateway = await gateway_process(tmp_path, port, eta)
        try:
            async with running_edge(tmp_path, {"gateway": [f"127.0.0.1:{port}"]}, options=options) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                async with Asking(edge.public) as asking:
                    await asking.more(100)
                    old = await edge.succeed()
                    await old.wait()
                    await asking.more(100)
                assert (asking.statuses.keys(), asking.broken) == ({200}, [])
        finally:
            await kill(gateway)


async def test_an_edge_that_is_to_go_says_so_and_answers_until_its_clients_have_left(tmp_path: Path) -> None:
    """As a pod is ended: it fails its readiness, and each answer is the last of its connection."""
    async with eta_service() as eta:
        [port] = free_ports(1)
        gateway = await gateway_process(tmp_path, port, eta)
        try:
            async with running_edge(tmp_path, {"gateway": [f"127.0.0.1:{port}"]}) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
                client = Client(edge.public)
                assert "connection" not in (await client.ask("GET", "/health/live")).headers
                await edge.admin("/healthcheck/fail")
                probe = Client(edge.ports["probe"])
                assert (await probe.ask("GET", "/ready")).status == 503
                await probe.close()
                last = await client.ask("GET", "/health/live")
                assert (last.status, last.headers["connection"]) == (200, "close")
                await edge.admin("/quitquitquit")
                await until(lambda: edge.process.returncode is not None, "the edge has ended")
                await client.close()
        finally:
            await kill(gateway)
