"""gRPC and gRPC-Web through the edge to typed services; streams; deadlines that arrive."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse
from waymesh.eta.v1 import eta_pb2, gps_stream_pb2
from waymesh.eta.v1.eta_service_pb2 import WatchEtaRequest, WatchEtaResponse
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.route.v1.route_service_pb2 import GetOrderRequest
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.mesh import deadline, json_codec, principal
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.integration.gateway_rig import GPS, KEY, Client, gateway, took_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUARD_S = 60.0
WATCHED = WatchEtaRequest(order_ids=["order_456"])
REPORT = gps_stream_pb2.ReportGpsRequest
BY_KEY = (("x-api-key", KEY),)
FIX = json_codec.from_dict(REPORT, {"event": GPS})
FIRST, LATER = (WatchEtaResponse(prediction=eta_pb2.EtaPrediction(order_id=of)) for of in ("first", "later"))
PATH = "/waymesh.eta.v1.EtaService/ReportGps"


@dataclass
class Service:
    """eta, as a test tells it to be."""

    calls: list[dict[str, str]] = field(default_factory=list)
    remaining_s: list[float] = field(default_factory=list)
    silent: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    updates: asyncio.Queue[WatchEtaResponse] = field(default_factory=asyncio.Queue)
    tokens: asyncio.Queue[StreamRunResponse | None] = field(default_factory=asyncio.Queue)

    async def report(self, request: Any, context: Any) -> Any:
        """ReportGps."""
        self.calls.append(dict(context.invocation_metadata()))
        self.remaining_s.append(deadline.remaining() or 0.0)
        if self.silent:
            await self._for_ever()
        return await took_in(request, context)

    async def watch(self, _request: Any, _context: Any) -> AsyncIterator[WatchEtaResponse]:
        """WatchEta."""
        try:
            while True:
                yield await self.updates.get()
        finally:
            self.ended.set()

    async def run(self, _request: Any, _context: Any) -> AsyncIterator[StreamRunResponse]:
        """StreamRun."""
        while (token := await self.tokens.get()) is not None:
            yield token

    async def _for_ever(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@dataclass
class Shared:
    """One edge before a gateway and a service, for all tests."""

    edge: RunningEdge
    service: Service
    channel: grpc.aio.Channel

    @property
    def eta(self) -> Any:
        """Its stub, through the edge."""
        return EtaServiceStub(self.channel)


@asynccontextmanager
async def before(folder: Path) -> AsyncIterator[Shared]:
    service = Service()
    handlers = {"ReportGps": service.report, "WatchEta": service.watch}
    async with gateway(handlers, agents={"StreamRun": service.run}) as rig:
        addresses = {
            "gateway": [f"127.0.0.1:{rig.gateway.public.port}"],
            "eta": [f"127.0.0.1:{rig.eta.port}"],
        }
        async with (
            running_edge(folder, addresses) as edge,
            grpc.aio.insecure_channel(edge.internal) as channel,
        ):
            await edge.until_hosts("eta", **{f"p{rig.eta.port}": "healthy"})
            await edge.until_hosts("gateway", **{f"p{rig.gateway.public.port}": "healthy"})
            yield Shared(edge, service, channel)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    async with before(tmp_path_factory.mktemp("services")) as shared:
        yield shared


@pytest_asyncio.fixture(loop_scope="module")
async def shared(module_edge: Shared) -> AsyncIterator[Shared]:
    service = module_edge.service
    service.calls.clear()
    service.remaining_s.clear()
    service.silent = False
    service.ended.clear()
    async with asyncio.timeout(GUARD_S):
        yield module_edge


async def test_a_call_is_answered_by_its_service(shared: Shared) -> None:
    answer = await shared.eta.ReportGps(FIX, timeout=10, metadata=(*BY_KEY, ("x-request-id", "from-a-stub")))
    assert answer.event_id == "event_1"
    line = await shared.edge.access(request_id="from-a-stub")
    assert (line["cluster"], line["grpc_status"], line["path"], line["attempts"]) == ("eta", "OK", PATH, 1)


async def test_a_call_from_a_page_is_answered_over_http_1(shared: Shared) -> None:
    """gRPC-Web: a frame with the message, and one with the trailers."""
    message = FIX.SerializeToString()
    client = Client(int(shared.edge.internal.rpartition(":")[2]))
    await client.send(
        "POST",
        PATH,
        b"\0" + len(message).to_bytes(4, "big") + message,
        {
            "Content-Type": "application/grpc-web+proto",
            "X-Grpc-Web": "1",
            "Grpc-Timeout": "5S",
            "X-API-Key": KEY,
        },
    )
    reader, _ = await client.connect()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    body = b""
    while size := int((await reader.readline()).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    length = int.from_bytes(body[1:5], "big")
    answer = gps_stream_pb2.ReportGpsResponse.FromString(body[5 : 5 + length])
    assert (body[0], answer.event_id) == (0, "event_1")
    trailers = body[5 + length :]
    assert trailers[0] == 0x80
    assert b"grpc-status:0" in trailers
    assert 0 < shared.service.remaining_s[0] <= 5
    await client.close()


async def test_what_is_left_of_a_callers_time_is_what_the_service_sees(shared: Shared) -> None:
    await shared.eta.ReportGps(FIX, timeout=30, metadata=BY_KEY)
    assert 10 < shared.service.remaining_s[0] < 30.1  # gRPC rounds up


async def test_what_is_left_of_timeout_ms_is_what_the_service_sees(shared: Shared) -> None:
    client = Client(shared.edge.public)
    assert (await client.task("report_gps", GPS, timeout_ms=30_000)).status == 200
    assert 10 < shared.service.remaining_s[0] <= 30
    await client.close()


async def test_a_service_that_is_silent_is_left_at_the_deadline_at_both_ends(shared: Shared) -> None:
    shared.service.silent = True
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await shared.eta.ReportGps(FIX, timeout=0.5, metadata=BY_KEY)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await shared.service.ended.wait()
    assert len(shared.service.calls) == 1


async def test_a_task_whose_time_passes_is_told_by_the_gateway_not_by_the_edge(shared: Shared) -> None:
    shared.service.silent = True
    client = Client(shared.edge.public)
    reply = await client.task("report_gps", GPS, timeout_ms=500)
    assert (reply.status, reply.json["service"], reply.json["reason"]) == (504, "eta", "DEADLINE_PASSED")
    await client.close()


async def test_a_caller_who_hangs_up_is_gone_for_the_service_too(shared: Shared) -> None:
    shared.service.silent = True
    call = shared.eta.ReportGps(FIX, timeout=60, metadata=BY_KEY)
    asking = asyncio.ensure_future(call)
    while not shared.service.calls:
        await asyncio.sleep(0.01)
    call.cancel()
    await shared.service.ended.wait()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_update_is_passed_on_when_it_comes(shared: Shared) -> None:
    watching = shared.eta.WatchEta(WATCHED, metadata=BY_KEY)
    for number in range(3):
        told = WatchEtaResponse(prediction=eta_pb2.EtaPrediction(order_id=f"order_{number}"))
        shared.service.updates.put_nowait(told)
        assert await watching.read() == told
    watching.cancel()
    await shared.service.ended.wait()


async def test_calls_that_are_given_up_do_not_end_a_stream_beside_them(shared: Shared) -> None:
    """By a caller or by his deadline: to the edge each is a stream that is reset young, as in an attack."""
    watching = shared.eta.WatchEta(WATCHED, metadata=BY_KEY)
    shared.service.updates.put_nowait(FIRST)
    assert await watching.read() == FIRST
    shared.service.silent = True
    late = [shared.eta.ReportGps(FIX, timeout=0.3, metadata=BY_KEY) for _ in range(60)]
    assert {await call.code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    # Of deadlines the edge, which knows them too, ends some before their callers.
    shared.service.calls.clear()
    dropped = [shared.eta.ReportGps(FIX, timeout=60, metadata=BY_KEY) for _ in range(60)]
    async with asyncio.timeout(GUARD_S):
        while len(shared.service.calls) < len(dropped):
            await asyncio.sleep(0.01)
    for call in dropped:
        call.cancel()
    shared.service.updates.put_nowait(LATER)
    async with asyncio.timeout(GUARD_S):
        assert await watching.read() == LATER
    shared.service.ended.clear()
    watching.cancel()
    await shared.service.ended.wait()


async def test_an_event_of_a_run_is_passed_on_when_it_comes(shared: Shared) -> None:
    client = Client(shared.edge.public)
    body = json.dumps({"task": "ask", "parameters": {"question": "where is order_1?"}}).encode()
    headers = {"Content-Type": "application/json", "X-API-Key": KEY, "Accept": "text/event-stream"}
    tokens = shared.service.tokens
    tokens.put_nowait(StreamRunResponse(run_id="r", cursor="r.1", accepted={"agent_name": "dispatcher"}))
    await client.send("POST", "/execute", body, headers)
    reader, _ = await client.connect()
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head, head
    assert b"id: r.1" in await reader.readuntil(b"\n\n")
    tokens.put_nowait(StreamRunResponse(run_id="r", cursor="r.2", token={"text": "here"}))
    assert b"id: r.2" in await reader.readuntil(b"\n\n")
    tokens.put_nowait(None)
    await client.close()


async def test_nobody_within_says_for_whom_he_asks_either(shared: Shared) -> None:
    spoofed = ((principal.TENANT_KEY, "other"), (principal.CALLER_KEY, "somebody"))
    await shared.eta.ReportGps(FIX, timeout=10, metadata=(*BY_KEY, *spoofed))
    [metadata] = shared.service.calls
    assert metadata[principal.TENANT_KEY] == principal.DEFAULT_TENANT
    assert metadata[principal.CALLER_KEY] == "FASTAPI_API_KEY"
    assert "x-api-key" not in metadata


@pytest.mark.parametrize("metadata", [(), (("x-api-key", "wm_wrong"),), ((principal.TENANT_KEY, "default"),)])
async def test_who_shows_neither_key_nor_certificate_is_refused(
    shared: Shared, metadata: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await shared.eta.ReportGps(FIX, timeout=10, metadata=metadata)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert shared.service.calls == []


async def test_a_service_that_is_away_is_unavailable(shared: Shared) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await RouteServiceStub(shared.channel).GetOrder(
            GetOrderRequest(order_id="order_1"), timeout=10, metadata=BY_KEY
        )
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "127.0.0.1" not in (raised.value.details() or "")


async def test_what_is_not_of_a_typed_service_is_not_implemented(shared: Shared) -> None:
    for path in ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/X", "/x.Y/Z"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await shared.channel.unary_unary(path)(b"", timeout=10, metadata=BY_KEY)
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
