"""Clients that do harm: what they get, and that others are answered meanwhile."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bench import _edge_attacks
from tests.certificates import Authority
from tests.edge.edge_rig import RunningEdge, running_edge, trusting
from tests.integration.gateway_rig import GPS, Client, gateway
from tools.edge import write_sds

HANG_S = 60.0
SLOW = b"POST /execute HTTP/1.1\r\nHost: x\r\nX-Slow: "


@dataclass
class Harmed:
    """An edge with TLS before a gateway, and whom it serves."""

    edge: RunningEdge
    authority: Path

    @property
    def victim(self) -> _edge_attacks.Victim:
        return _edge_attacks.Victim(self.edge.public, str(self.authority))

    async def answers(self) -> None:
        """A client that does no harm is answered, on a new connection."""
        client = Client(self.edge.public, tls=trusting(self.authority))
        for _ in range(5):
            assert (await client.task("report_gps", GPS)).status == 200
        await client.close()


@asynccontextmanager
async def harmed(folder: Path) -> AsyncIterator[Harmed]:
    shown = Authority("public").issue("edge", uris=()).write(folder / "public")
    write_sds(folder / "sds", public=shown.folder, mesh=shown.folder)
    async with gateway() as rig:
        port = rig.gateway.public.port
        addresses = {"gateway": [f"127.0.0.1:{port}"]}
        async with running_edge(folder, addresses, tls=True, sds=folder / "sds") as edge:
            await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
            async with asyncio.timeout(HANG_S):
                yield Harmed(edge, shown.authorities)


async def test_a_connection_whose_streams_are_reset_as_they_begin_is_ended(tmp_path: Path) -> None:
    async with harmed(tmp_path) as rig:
        with contextlib.suppress(OSError, EOFError):
            await _edge_attacks.rapid_reset(rig.victim)  # which goes on until then
        counted = await rig.edge.stats()
        assert counted["http.public.downstream_rq_too_many_premature_resets"] >= 1
        given_up = counted["http.public.downstream_rq_rx_reset"]
        assert given_up >= 250
        await rig.answers()
        await rig.edge.access(path="/execute")  # what came before it is there, too
        # One in a hundred has a line, so that nobody fills a disk like this.
        assert sum(line["status"] == 0 for line in rig.edge.accessed()) < given_up / 5


async def test_who_gives_up_after_a_second_has_a_line_with_the_path(tmp_path: Path) -> None:
    async with harmed(tmp_path) as rig:
        _, writer = await rig.victim.connect()
        writer.write(SLOW + b"x\r\nContent-Length: 9\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(1.2)  # which is what is logged
        writer.close()
        line = await rig.edge.access(status=0)
        assert line["path"] == "/execute"
        assert line["duration_ms"] >= 1000


@pytest.mark.parametrize("kind", ["long_headers", "bombs", "smuggling", "rapid_connects"])
async def test_others_are_answered_meanwhile(tmp_path: Path, kind: str) -> None:
    async with harmed(tmp_path) as rig:

        async def attack() -> None:
            while True:
                with contextlib.suppress(OSError, EOFError):
                    await _edge_attacks.KINDS[kind](rig.victim)

        attackers = [asyncio.create_task(attack()) for _ in range(3)]
        try:
            for _ in range(5):
                await rig.answers()
        finally:
            for attacker in attackers:
                attacker.cancel()
            await asyncio.gather(*attackers, return_exceptions=True)
        assert psutil.Process(rig.edge.process.pid).memory_info().rss < 300 << 20


async def test_sockets_that_drip_leave_room_for_others(tmp_path: Path) -> None:
    async with harmed(tmp_path) as rig:
        dripping = [await rig.victim.connect() for _ in range(100)]
        for _, writer in dripping:
            writer.write(SLOW)
        await rig.answers()
        assert (await rig.edge.stats())["http.public.downstream_cx_active"] >= 100
        for _, writer in dripping:
            writer.close()


async def test_a_flood_of_connections_is_closed_before_handshakes_and_costs_not_those_that_stand(
    tmp_path: Path,
) -> None:
    async with harmed(tmp_path) as rig:
        client = Client(rig.edge.public, tls=trusting(rig.authority))
        assert (await client.task("report_gps", GPS)).status == 200
        flood = [await asyncio.open_connection("127.0.0.1", rig.edge.public) for _ in range(2500)]
        assert (await client.task("report_gps", GPS)).status == 200
        await rig.edge.until_more("listener_local_ratelimit.public.rate_limited", 0)
        for _, writer in flood:
            writer.close()
        assert (await client.task("report_gps", GPS)).status == 200
        await client.close()
        while True:  # what is still to be taken from the queue comes first
            with contextlib.suppress(OSError, EOFError):
                await rig.answers()
                break


async def test_clients_that_take_every_place_leave_those_of_kubelet_prometheus_and_the_drain(
    tmp_path: Path,
) -> None:
    places = {"max_active_downstream_connections: 8000": "max_active_downstream_connections: 4"}
    async with (
        asyncio.timeout(HANG_S),
        running_edge(tmp_path, {}, change=places) as edge,
        contextlib.AsyncExitStack() as held,
    ):
        overflow = f"listener.127.0.0.1_{edge.public}.downstream_global_cx_overflow"
        while not (await edge.stats()).get(overflow):
            _, writer = await asyncio.open_connection("127.0.0.1", edge.public)
            held.callback(writer.close)
        probe = Client(edge.ports["probe"])
        assert (await probe.ask("GET", "/ready")).status == 200
        await probe.close()
