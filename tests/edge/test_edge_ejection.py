"""Who is ejected by the edge, and that no caller can bring it about."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub

from services.mesh import json_codec
from services.mesh.errors import DeadlineExceeded, Internal, MeshError, Unavailable
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.edge.test_edge_services import BY_KEY, FIX, PATH, REPORT
from tests.integration.gateway_rig import GPS, KEY, Client, Rig, gateway, took_in

pytestmark = [pytest.mark.faults, pytest.mark.asyncio(loop_scope="module")]

# A courier whose fixes are not answered.
HANGS = {**GPS, "driver_id": "driver_silent"}
# One of whose fixes it is said that there was no time.
LATE = {**GPS, "driver_id": "driver_late"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def typed_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningEdge]:
    """Before two gateways and the services behind them."""

    async def handler(request: Any, context: Any) -> Any:
        if request.event.driver_id == HANGS["driver_id"]:
            await asyncio.Event().wait()
        if request.event.driver_id == LATE["driver_id"]:
            raise DeadlineExceeded("no time was left to ask")
        return await took_in(request, context)

    limits = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    both = (gateway({"ReportGps": handler}, **limits) for _ in range(2))
    async with AsyncExitStack() as stack:
        one, other = [await stack.enter_async_context(each) for each in both]
        folder = tmp_path_factory.mktemp("typed")
        edge = await stack.enter_async_context(running_edge(folder, typed(one, other)))
        await edge.until_hosts("eta", **healthy(one.eta.port, other.eta.port))
        await edge.until_hosts("gateway", **healthy(one.gateway.public.port, other.gateway.public.port))
        yield edge


def typed(*rigs: Rig) -> dict[str, list[str]]:
    """Where gateways and services of these are."""
    return {
        "gateway": [f"127.0.0.1:{rig.gateway.public.port}" for rig in rigs],
        "eta": [f"127.0.0.1:{rig.eta.port}" for rig in rigs],
    }


def healthy(*ports: int) -> dict[str, str]:
    return {f"p{port}": "healthy" for port in ports}


@pytest.mark.parametrize("fault", [Unavailable("not now"), Internal("broken")], ids=["away", "broken"])
async def test_a_service_that_says_that_it_fails_is_ejected(tmp_path: Path, fault: MeshError) -> None:
    async def refuses(_request: Any, _context: Any) -> Any:
        raise fault

    async with (
        gateway({"ReportGps": refuses}) as bad,
        gateway() as good,
        running_edge(tmp_path, typed(bad, good)) as edge,
    ):
        await edge.until_hosts("eta", **healthy(bad.eta.port, good.eta.port))
        async with grpc.aio.insecure_channel(edge.internal) as channel, asyncio.timeout(120):
            while (await edge.hosts("eta"))[str(bad.eta.port)] != "ejected":
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await EtaServiceStub(channel).ReportGps(FIX, timeout=10, metadata=BY_KEY)


async def detected(edge: RunningEdge, cluster: str) -> int:
    """How often a replica was taken for one that fails, whether or not it was ejected for that."""
    counted = await edge.stats()
    kinds = ("consecutive_5xx", "failure_percentage")
    return sum(
        counted.get(f"cluster.{cluster}.outlier_detection.ejections_detected_{kind}", 0) for kind in kinds
    )


WEB = "application/grpc-web+proto"


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", f"{PATH}?x", {"Content-Type": WEB}),
        ("POST", f"{PATH}s", {"Content-Type": WEB}),
        ("POST", PATH, {"Content-Type": WEB, "foo-bin": "!!!"}),
        ("POST", PATH, {"Content-Type": WEB, "Grpc-Timeout": "soon"}),
        ("POST", PATH, {"Content-Type": WEB, "Grpc-Encoding": "bogus"}),
        ("POST", PATH, {"Content-Type": WEB, "Grpc-Encoding": "gzip"}),
        ("POST", PATH, {"Content-Type": WEB, "Grpc-Previous-Rpc-Attempts": "some"}),
        ("POST", PATH, {"Content-Type": "application/grpc"}),
        ("POST", PATH, {"Content-Type": "application/grpcx"}),
        ("POST", PATH, {"Content-Type": "application/json"}),
        ("POST", PATH, {}),
        ("GET", PATH, {"Content-Type": WEB}),
    ],
)
async def test_no_caller_can_have_a_service_ejected(
    typed_edge: RunningEdge, method: str, path: str, headers: dict[str, str]
) -> None:
    """What a request brings about by itself is no fault of who answers it."""
    message = FIX.SerializeToString()
    frame = b"\0" + len(message).to_bytes(4, "big") + message
    before = await detected(typed_edge, "eta")
    for _ in range(12):
        client = Client(typed_edge.ports["internal"])
        await client.send(method, path, frame, {"X-API-Key": KEY, **headers})
        reader, _ = await client.connect()
        await reader.readuntil(b"\r\n\r\n")
        await client.close()
    assert await detected(typed_edge, "eta") == before


async def test_no_caller_can_have_a_gateway_ejected_by_being_in_a_hurry(typed_edge: RunningEdge) -> None:
    client = Client(typed_edge.public)
    for _ in range(12):
        assert (await client.task("report_gps", HANGS, timeout_ms=20)).status == 504
    await client.close()
    assert await detected(typed_edge, "gateway") == 0


@pytest.mark.parametrize("coding", ["identity", "gzip", "deflate"])
async def test_no_caller_can_have_a_service_ejected_by_what_cannot_be_unpacked(
    typed_edge: RunningEdge, coding: str
) -> None:
    message = FIX.SerializeToString()
    packed = b"\1" + len(message).to_bytes(4, "big") + message
    before = await detected(typed_edge, "eta")
    headers = {"X-API-Key": KEY, "Content-Type": WEB, "Grpc-Encoding": coding}
    for _ in range(12):
        client = Client(typed_edge.ports["internal"])
        await client.send("POST", PATH, packed, headers)
        reader, _ = await client.connect()
        head = await reader.readuntil(b"\r\n\r\n")
        # In the words of who cannot, and without those of the edge to itself.
        assert b"\r\ngrpc-status: 13\r\n" in head, head
        assert b"x-waymesh" not in head
        await client.close()
    assert await detected(typed_edge, "eta") == before


async def test_no_caller_can_have_a_service_ejected_by_being_in_a_hurry(typed_edge: RunningEdge) -> None:
    """A service answers so a moment before the deadline, if what it has to ask itself needs longer."""
    late = json_codec.from_dict(REPORT, {"event": LATE})
    before = await detected(typed_edge, "eta")
    async with grpc.aio.insecure_channel(typed_edge.internal) as channel:
        for _ in range(12):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await EtaServiceStub(channel).ReportGps(late, timeout=10, metadata=BY_KEY)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await detected(typed_edge, "eta") == before
