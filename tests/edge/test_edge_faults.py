"""Replicas behind the edge that die or lie: nothing is sent twice, and the others are asked."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import ReportGpsResponse

from services.mesh.errors import Unavailable
from tests.edge.edge_rig import running_edge
from tests.edge.replicas import (
    GUARD_S,
    Asking,
    Behaviour,
    babbles,
    eta_service,
    failing_each,
    fails,
    gateway_process,
    is_silent,
    kill,
    liar,
    resets,
)
from tests.edge.test_edge_services import BY_KEY, FIX
from tests.integration.gateway_rig import GPS, Client, Reply, gateway
from tools.ports import free_ports

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("behaviour", [resets, fails, babbles])
async def test_a_request_that_fails_behind_was_sent_once(tmp_path: Path, behaviour: Behaviour) -> None:
    """All replicas are of that kind: an outage."""
    async with liar(behaviour) as one, liar(behaviour) as other:
        addresses = {"gateway": [f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"]}
        async with running_edge(tmp_path, addresses) as edge:
            await edge.until_hosts("gateway", **{f"p{one.port}": "healthy", f"p{other.port}": "healthy"})
            client = Client(edge.public)
            statuses = [(await client.task("report_gps", GPS)).status for _ in range(40)]
            await client.close()
            assert set(statuses) <= {502, 503}
            assert one.requests + other.requests <= 40
            assert one.requests + other.requests > 30  # it did come there: the edge judges no request
            counted = await edge.stats()
            assert counted["cluster.gateway.upstream_rq_total"] <= 40
            assert counted.get("cluster.gateway.upstream_rq_retry", 0) == 0


async def test_a_call_that_a_service_refuses_was_sent_once(tmp_path: Path) -> None:
    calls = 0

    async def refuses(_request: Any, _context: Any) -> Any:
        nonlocal calls
        calls += 1
        raise Unavailable("not now")

    async with gateway({"ReportGps": refuses}) as rig:
        addresses = {
            "eta": [f"127.0.0.1:{rig.eta.port}"],
            "gateway": [f"127.0.0.1:{rig.gateway.public.port}"],
        }
        async with running_edge(tmp_path, addresses) as edge:
            await edge.until_hosts("eta", **{f"p{rig.eta.port}": "healthy"})
            async with grpc.aio.insecure_channel(edge.internal) as channel:
                for _ in range(30):
                    with pytest.raises(grpc.aio.AioRpcError) as raised:
                        await EtaServiceStub(channel).ReportGps(FIX, timeout=10, metadata=BY_KEY)
                    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert calls == 30


async def test_nothing_at_all_is_sent_where_nobody_listens(tmp_path: Path) -> None:
    async with running_edge(tmp_path, {}) as edge:
        client = Client(edge.public)
        for _ in range(40):
            assert (await client.task("report_gps", GPS)).status == 503
        await client.close()
        counted = await edge.stats()
        assert counted["cluster.gateway.upstream_rq_total"] <= 40
        assert counted["cluster.gateway.upstream_cx_total"] <= 44  # connections tried: 1.1 a request


async def test_a_replica_that_is_killed_is_ejected_and_the_other_goes_on(tmp_path: Path) -> None:
    async with eta_service() as eta:
        ports = free_ports(2)
        one, other = await asyncio.gather(*(gateway_process(tmp_path, port, eta) for port in ports))
        try:
            addresses = {"gateway": [f"127.0.0.1:{port}" for port in ports]}
            async with running_edge(tmp_path, addresses) as edge:
                await edge.until_hosts("gateway", **{f"p{port}": "healthy" for port in ports})
                async with Asking(edge.public) as asking:
                    await asking.more(100)
                    assert asking.statuses.keys() == {200}
                    one.kill()
                    await one.wait()
                    async with asyncio.timeout(120):
                        while (await edge.hosts("gateway"))[str(ports[0])] == "healthy":
                            await asyncio.sleep(0.01)
                    await asking.more(20)  # what was under way
                    so_far = len(asking.replies)
                    await asking.more(300)
                assert {reply.status for reply in asking.replies[so_far:]} == {200}
                assert asking.broken == []
                # Those under way, and what it takes to see it.
                refused = [reply for reply in asking.replies if reply.status != 200]
                assert {reply.status for reply in refused} <= {503}
                assert len(refused) <= asking.clients + 5
                assert all("retry-after" in reply.headers for reply in refused)
        finally:
            await kill(one)
            await kill(other)


@pytest.mark.parametrize("behaviour", [resets, fails, babbles])
async def test_a_replica_that_only_fails_is_ejected_though_it_says_that_it_is_well(
    tmp_path: Path, behaviour: Behaviour
) -> None:
    async with liar(behaviour) as lying, gateway() as rig:
        addresses = {"gateway": [f"127.0.0.1:{lying.port}", f"127.0.0.1:{rig.gateway.public.port}"]}
        async with running_edge(tmp_path, addresses) as edge:
            await edge.until_hosts(
                "gateway", **{f"p{lying.port}": "healthy", f"p{rig.gateway.public.port}": "healthy"}
            )
            client = Client(edge.public)
            async with asyncio.timeout(120):
                while (await edge.hosts("gateway"))[str(lying.port)] != "ejected":
                    await client.task("report_gps", GPS)
            seen = lying.requests
            assert [(await client.task("report_gps", GPS)).status for _ in range(50)] == [200] * 50
            assert lying.requests == seen
            await client.close()


async def test_one_of_three_that_fails_a_tenth_costs_what_it_fails_and_nothing_is_sent_twice(
    tmp_path: Path,
) -> None:
    """Too little for an ejection, which needs half: what it answers is worth having."""
    taken: Counter[str] = Counter()

    def naming(name: str) -> Any:
        async def handler(_request: Any, _context: Any) -> Any:
            taken[name] += 1
            return ReportGpsResponse(event_id=name)

        return {"ReportGps": handler}

    limits = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    async with (
        liar(failing_each(10)) as failing,
        gateway(naming("one"), **limits) as one,
        gateway(naming("other"), **limits) as other,
    ):
        ports = [failing.port, one.gateway.public.port, other.gateway.public.port]
        async with running_edge(tmp_path, {"gateway": [f"127.0.0.1:{port}" for port in ports]}) as edge:
            await edge.until_hosts("gateway", **{f"p{port}": "healthy" for port in ports})
            async with Asking(edge.public) as asking:
                while failing.requests < 100:
                    await asking.more(10)
            held = await edge.hosts("gateway")
            counted = await edge.stats()
    assert asking.broken == []
    sent = len(asking.replies)
    assert failing.requests + taken.total() == sent == counted["cluster.gateway.upstream_rq_total"]
    assert counted.get("cluster.gateway.upstream_rq_retry", 0) == 0
    failed = failing.requests // 10
    assert asking.statuses == {200: sent - failed, 503: failed}
    answered = Counter(reply.json["result"]["event_id"] for reply in asking.replies if reply.body)
    assert answered == taken
    # The least busy one is asked, which is rather the one that fails at once than those who do some work.
    assert min(taken["one"], taken["other"]) > 10
    assert set(held.values()) == {"healthy"}


async def test_a_replica_that_is_silent_gets_no_more_than_it_holds(tmp_path: Path) -> None:
    """Its requests stay under way, so the other has fewer and is asked."""
    async with liar(is_silent) as silent, gateway() as rig:
        addresses = {"gateway": [f"127.0.0.1:{silent.port}", f"127.0.0.1:{rig.gateway.public.port}"]}
        async with running_edge(tmp_path, addresses) as edge:
            await edge.until_hosts(
                "gateway", **{f"p{silent.port}": "healthy", f"p{rig.gateway.public.port}": "healthy"}
            )
            stuck: list[tuple[Client, asyncio.Task[Reply]]] = []
            answered = 0
            async with asyncio.timeout(GUARD_S):
                while answered < 100:
                    client = Client(edge.public)
                    await client.send("GET", "/health/live")
                    receiving = asyncio.create_task(client.receive())
                    while not receiving.done() and silent.requests == len(stuck):
                        await asyncio.sleep(0.005)
                    if receiving.done():
                        assert (await receiving).status == 200
                        answered += 1
                        await client.close()
                    else:
                        stuck.append((client, receiving))
            assert len(stuck) <= 2
            for client, receiving in stuck:
                receiving.cancel()
                await client.close()
