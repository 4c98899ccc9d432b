"""Callers of gRPC before the edge, which asks the gateway who makes each call and whether it may."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from gateway_rig import KEY, Rig, gateway
from waymesh.eta.v1 import eta_service_pb2, eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1.alert_pb2 import SilenceAlertRequest, SilenceAlertResponse
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of, new_key
from services.gateway.limits import Rate
from services.mesh import errors, principal
from services.mesh.principal import Principal
from tests.edge.edge_rig import running_edge
from tests.processes import until
from tools.ports import free_ports

pytestmark = pytest.mark.asyncio(loop_scope="module")

HANG_S = 60.0
TENANT, KEY_ID, CALLER, SCOPES = (f"x-waymesh-{each}" for each in ("tenant", "key", "caller", "scopes"))


@asynccontextmanager
async def through_edge(folder: Path, ports: Mapping[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the edge as it is deployed, before these."""
    addresses = {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
    async with (
        running_edge(folder, addresses) as running,
        grpc.aio.insecure_channel(running.internal) as channel,
    ):
        for name in ports.keys() & {"eta", "feedback"}:
            await running.until_hosts(name, **{f"p{ports[name]}": "healthy"})
        yield channel


class Seen:
    """What a service has been told of its callers."""

    def __init__(self) -> None:
        self.whom: list[Principal] = []
        self.metadata: list[dict[str, Any]] = []

    def note(self, context: Any) -> None:
        self.whom.append(principal.current())
        self.metadata.append(dict(context.invocation_metadata()))

    async def report(self, _request: Any, context: Any) -> gps_stream_pb2.ReportGpsResponse:
        self.note(context)
        return gps_stream_pb2.ReportGpsResponse(event_id="event_1")

    async def predict(self, _request: Any, context: Any) -> eta_service_pb2.PredictEtaResponse:
        self.note(context)
        return eta_service_pb2.PredictEtaResponse()

    async def watch(self, _request: Any, context: Any) -> AsyncIterator[Any]:
        self.note(context)
        yield eta_service_pb2.WatchEtaResponse(cursor="1")

    async def silence(self, request: Any, context: Any) -> SilenceAlertResponse:
        self.note(context)
        return SilenceAlertResponse(alert_key=request.alert_key)


@dataclass(frozen=True)
class Before:
    """A gateway, the edge that asks it, and services behind that edge, for all tests."""

    rig: Rig
    channel: grpc.aio.Channel
    seen: Seen

    @property
    def eta(self) -> Any:
        """Its stub, through the edge."""
        return eta_service_pb2_grpc.EtaServiceStub(self.channel)

    async def added(self, *scopes: str, **more: Any) -> tuple[str, ApiKey]:
        """A key, and what is kept of it."""
        key = new_key()
        kept = ApiKey(digest_of(key.encode()), "näht", tenant="acme", scopes=scopes or ("*",), **more)
        assert self.rig.gateway.keys.store is not None
        await self.rig.gateway.keys.store.add(kept, Entry("keys add", "test"))
        return key, kept


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_edge(
    module_database: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Before]:
    seen = Seen()
    async with gateway(
        {"ReportGps": seen.report, "PredictEta": seen.predict, "WatchEta": seen.watch},
        feedback={"SilenceAlert": seen.silence},
        database_url=module_database,
    ) as rig:
        await until(lambda: rig.gateway.keys.store is not None, "the store is open")
        ports = {
            "eta": rig.eta.port,
            "feedback": int(rig.gateway.settings.feedback_target.rpartition(":")[2]),
            "gateway": rig.gateway.public.port,
        }
        async with through_edge(tmp_path_factory.mktemp("edge"), ports) as channel:
            yield Before(rig, channel, seen)


@pytest_asyncio.fixture(loop_scope="module")
async def edge(module_edge: Before) -> AsyncIterator[Before]:
    module_edge.seen.whom.clear()
    async with asyncio.timeout(HANG_S):
        yield module_edge


def query() -> eta_service_pb2.PredictEtaRequest:
    request = eta_service_pb2.PredictEtaRequest()
    request.query.order_id = "order_1"
    return request


def reason_of(error: grpc.aio.AioRpcError) -> errors.MeshError:
    """As a client of the mesh reads it."""
    return errors.from_rpc_error(error, "eta", "/x", None)


async def test_a_call_is_made_for_whom_the_key_says_whatever_the_caller_says(edge: Before) -> None:
    key, kept = await edge.added()
    lies = ((TENANT, "other"), (KEY_ID, "0" * 12), (CALLER, "root"), (SCOPES, "admin"))
    await edge.eta.PredictEta(query(), metadata=(("x-api-key", key), *lies))
    assert edge.seen.whom == [Principal("acme", kept.key_id, "näht")]
    # The default tenant is no absence that a lie could fill.
    await edge.eta.PredictEta(query(), metadata=(("x-api-key", KEY), *lies))
    assert (edge.seen.whom[1].tenant, edge.seen.whom[1].name) == ("default", "FASTAPI_API_KEY")
    assert not edge.seen.whom[1].admin


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ({}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"),
        ({"x-api-key": "wm_wrong"}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
        ({TENANT: "acme", KEY_ID: "0" * 12}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"),
    ],
)
async def test_who_has_no_key_is_told_so_as_grpc_has_it(
    edge: Before, sent: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await edge.eta.PredictEta(query(), metadata=tuple(sent.items()))
    assert (refused.value.code(), reason_of(refused.value).reason_name) == (code, reason)
    assert refused.value.details() == reason_of(refused.value).message
    assert edge.seen.whom == []


async def test_scopes_limits_and_ends_count_there_too(edge: Before) -> None:
    async def refused(key: str) -> errors.MeshError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await edge.eta.PredictEta(query(), metadata=(("x-api-key", key),))
        return reason_of(raised.value)

    narrow, _ = await edge.added("report_gps")
    missing = await refused(narrow)
    assert (missing.code, missing.reason_name) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
    assert missing.metadata == {"task": "predict_eta", "scope": "predict_eta"}
    slow, _ = await edge.added(rate=Rate(0.01, 1))
    await edge.eta.PredictEta(query(), metadata=(("x-api-key", slow),))
    limited = await refused(slow)
    assert (limited.code, limited.reason_name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert limited.retry_after_s == pytest.approx(100, abs=10)
    over, _ = await edge.added(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert (await refused(over)).reason_name == "API_KEY_INVALID"
    assert len(edge.seen.whom) == 1


async def test_a_stream_asks_for_the_scope_of_its_own_name(edge: Before) -> None:
    request = eta_service_pb2.WatchEtaRequest()
    narrow, _ = await edge.added("predict_eta")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in edge.eta.WatchEta(request, metadata=(("x-api-key", narrow),)):
            pass
    assert reason_of(raised.value).metadata["scope"] == "watch_eta"
    watcher, _ = await edge.added("watch_*")
    metadata = (("x-api-key", watcher),)
    told = [each.cursor async for each in edge.eta.WatchEta(request, metadata=metadata)]
    assert told == ["1"]
    assert [whom.tenant for whom in edge.seen.whom] == ["acme"]


async def test_what_is_for_operators_is_told_and_passed_on_with_that_right(edge: Before) -> None:
    stub = FeedbackServiceStub(edge.channel)
    request = SilenceAlertRequest(alert_key="error_rate/eta", duration_s=1)
    plain, _ = await edge.added()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.SilenceAlert(request, metadata=(("x-api-key", plain), (SCOPES, "admin")))
    assert reason_of(raised.value).metadata == {"task": "silence_alert", "scope": "admin"}
    operator, _ = await edge.added("admin")
    await stub.SilenceAlert(request, metadata=(("x-api-key", operator),))
    assert [whom.admin for whom in edge.seen.whom] == [True]
    store = edge.rig.gateway.keys.store
    assert store is not None
    notes = [each for each in await store.notes(None, 10) if each.action == "silence_alert"]
    assert [each.outcome for each in notes] == ["allowed", "refused"]


SILENCE = "/waymesh.feedback.v1.FeedbackService/SilenceAlert"


async def test_no_operator_is_written_down_as_allowed_what_the_edge_then_refuses(edge: Before) -> None:
    store = edge.rig.gateway.keys.store
    assert store is not None
    operator, _ = await edge.added("admin")
    before = await store.notes(None, 100)
    for path in (f"{SILENCE}?x", f"{SILENCE}?"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await edge.channel.unary_unary(path)(b"", metadata=(("x-api-key", operator),))
        assert raised.value.code() is grpc.StatusCode.INTERNAL, path  # of a 400
    client = edge.rig.client()
    asked = await client.ask("POST", f"/authorize{SILENCE}?x", b"", {"X-API-Key": operator})
    assert (asked.status, asked.headers["grpc-status"]) == (429, "12")
    assert await store.notes(None, 100) == before
    assert edge.seen.whom == []


@pytest.mark.parametrize("method", ["Foo", "PredictEta/"])
async def test_what_is_no_rpc_of_a_service_is_said_to_be_none(edge: Before, method: str) -> None:
    path = f"/waymesh.eta.v1.EtaService/{method}"
    call: Any = edge.channel.unary_unary(path)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"", metadata=(("x-api-key", KEY),))
    error = reason_of(raised.value)
    assert (error.code, error.reason_name) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED")
    assert error.metadata == {"method": path}


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/waymesh.eta.v1.EtaService/Predict%45ta",
        "/execute",
    ],
)
async def test_what_is_no_rpc_of_the_contracts_is_for_nobody(edge: Before, path: str) -> None:
    """Asked of the gateway itself: the edge has no way for most of these, and decodes the other."""
    client = edge.rig.client()
    reply = await client.ask("POST", f"/authorize{path}", b"", {"X-API-Key": KEY})
    await client.close()
    assert (reply.status, reply.headers["grpc-status"]) == (429, "12")


async def test_a_gateway_that_cannot_tell_is_unavailable_and_not_forbidden(tmp_path: Path) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    async with (
        gateway(database_url=away, api_key=None) as rig,
        through_edge(tmp_path, {"eta": rig.eta.port, "gateway": rig.gateway.public.port}) as channel,
    ):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.PredictEta(query(), metadata=(("x-api-key", "wm_unknown"),))
        error = reason_of(raised.value)
        assert (error.code, error.reason_name) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert error.retry_after_s == 1


async def test_a_gateway_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    seen = Seen()
    async with (
        gateway({"PredictEta": seen.predict}) as rig,
        through_edge(tmp_path, {"eta": rig.eta.port, "gateway": free_ports(1)[0]}) as channel,
    ):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.PredictEta(query(), metadata=(("x-api-key", KEY),))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert seen.whom == []


@pytest.mark.asyncio(loop_scope="function")
async def test_it_says_who_calls_and_why_not_in_headers_alone(database: str) -> None:
    path = "/authorize/waymesh.eta.v1.EtaService/PredictEta"
    async with gateway(database_url=database) as rig:
        client = rig.client()
        for method in ("GET", "POST"):
            reply = await client.ask(method, path, b"", {"X-API-Key": KEY})
            assert (reply.status, reply.body) == (200, b"")
            assert reply.headers[TENANT] == "default"
            assert reply.headers[KEY_ID] == digest_of(KEY.encode()).hex()[:12]
            assert reply.headers[CALLER] == "FASTAPI_API_KEY"
            assert reply.headers[SCOPES] == "none"
        reply = await client.ask("GET", path, b"", {})
        assert (reply.status, reply.body, reply.headers["grpc-status"]) == (401, b"", "16")
        assert (await client.ask("DELETE", path, b"", {"X-API-Key": KEY})).status == 405
        assert rig.metric("http_requests_total", listener="gateway", path="/authorize", code="200") == 2
        for runtime in ("agent-demo", "agent-custom"):
            assert (await rig.client(runtime).ask("GET", path, b"", {"X-API-Key": KEY})).status == 404
