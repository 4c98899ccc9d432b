"""One request in, one RPC out: what a client of the gateway sees, and what the owner of a task sees."""

import asyncio
import json
from typing import Any

import pytest
from gateway_rig import GPS, JSON, KEY, gateway, took_in
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, gps_stream_pb2
from waymesh.mesh.v1 import degradation_pb2, error_reason_pb2

from services.mesh import errors, json_codec
from tests.processes import until

EXAMPLE = (
    b'{"driver_id":"driver_123","order_id":"order_456","location":{"lat":-23.5505,"lon":-46.6333},'
    b'"speed_kph":25.3,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"business_district",'
    b'"timestamp":"2024-08-28T10:30:00Z","anomaly_flags":[]}'
)


async def test_the_bytes_of_the_requirements_go_to_their_rpc_as_they_stand() -> None:
    seen: list[gps_stream_pb2.ReportGpsRequest] = []

    async def keeps(request: Any, context: Any) -> Any:
        seen.append(request)
        return await took_in(request, context)

    async with gateway({"ReportGps": keeps}) as rig:
        reply = await rig.client().post("/execute", b'{"task":"report_gps","parameters":' + EXAMPLE + b"}")
    assert reply.status == 200
    assert json_codec.encode(seen[0].event) == EXAMPLE
    body = reply.json
    assert list(body) == ["request_id", "status", "result", "duration_ms", "service", "attempt"]
    assert body["status"] == "success"
    assert body["result"] == {"event_id": "event_1", "duplicate": False}
    assert (body["service"], body["attempt"]) == ("eta", 1)
    assert body["request_id"] == reply.headers["x-request-id"]
    assert body["duration_ms"] > 0


@pytest.mark.parametrize(
    ("listener", "service", "theme"),
    [
        ("agent-demo", "agent-demo", None),
        ("agent-custom", "agent-custom", "neutral"),
        ("gateway", "eta", None),
    ],
)
async def test_run_is_the_runtime_contract_on_three_listeners(
    listener: str, service: str, theme: str | None
) -> None:
    async with gateway() as rig:
        key = KEY if listener == "gateway" else None
        reply = await rig.client(listener).task("report_gps", GPS, path="/run", key=key)
        body = reply.json
        expected = {"request_id", "status", "result", "duration_ms", "service"} | (
            {"theme"} if theme else set()
        )
        assert reply.status == 200
        assert set(body) == expected
        assert body["service"] == service
        assert body.get("theme") == theme


@pytest.mark.parametrize("listener", ["agent-demo", "agent-custom"])
async def test_a_runtime_serves_its_health_and_nothing_else(listener: str) -> None:
    async with gateway() as rig:
        client = rig.client(listener)
        health = await client.ask("GET", "/health")
        assert (health.status, health.json["service"]) == (200, listener)
        for path in ("/execute", "/metrics", "/openapi.json", "/docs", "/health/ready"):
            assert (await client.ask("GET", path)).status == 404


async def test_run_on_the_public_listener_asks_for_a_key() -> None:
    async with gateway() as rig:
        assert (await rig.client().task("report_gps", GPS, path="/run", key=None)).status == 401


async def test_a_degraded_answer_says_so_beside_its_result() -> None:
    async def degraded(_request: Any, _context: Any) -> Any:
        return eta_service_pb2.PredictEtaResponse(
            prediction=eta_pb2.EtaPrediction(order_id="order_1"),
            degradation=degradation_pb2.Degradation(source="eta.prior", reason="no fix yet"),
        )

    async with gateway({"PredictEta": degraded}) as rig:
        body = (await rig.client().task("predict_eta", {"order_id": "order_1"})).json
        assert body["degraded"] == {"source": "eta.prior", "reason": "no fix yet"}
        assert body["status"] == "success"
        body = (
            await rig.client("agent-demo").task("predict_eta", {"order_id": "o"}, path="/run", key=None)
        ).json
        assert body["degraded"]["source"] == "eta.prior"


async def test_the_attempt_that_succeeded_is_told() -> None:
    calls = 0

    async def second_time(request: Any, context: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise errors.Unavailable("not yet", retry_after_s=0.01)
        return await took_in(request, context)

    async with gateway({"ReportGps": second_time}) as rig:
        assert (await rig.client().task("report_gps", GPS)).json["attempt"] == 2


async def test_parameters_may_be_left_out_where_nothing_is_needed() -> None:
    async def stats(_request: Any, _context: Any) -> Any:
        return gps_stream_pb2.GetGpsStatsResponse(fixes=3)

    async with gateway({"GetGpsStats": stats}) as rig:
        client = rig.client()
        for body in (
            {"task": "get_gps_stats"},
            {"task": "get_gps_stats", "parameters": None, "timeout_ms": None},
        ):
            assert (await client.post("/execute", body)).json["result"]["fixes"] == 3


async def test_the_owner_gets_the_request_id_and_less_time_than_the_client_gave() -> None:
    seen: dict[str, Any] = {}

    async def looks(request: Any, context: Any) -> Any:
        seen["left_s"] = context.time_remaining()
        seen["metadata"] = dict(context.invocation_metadata())
        return await took_in(request, context)

    async with gateway({"ReportGps": looks}) as rig:
        reply = await rig.client().task(
            "report_gps", GPS, timeout_ms=30_000, headers={"X-Request-Id": "mine-1"}
        )
    assert reply.json["request_id"] == reply.headers["x-request-id"] == "mine-1"
    assert seen["metadata"]["x-request-id"] == "mine-1"
    assert 0 < seen["left_s"] < 30


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "tab\there", "ümlaut"])
async def test_a_request_id_that_is_not_sane_is_replaced(given: str) -> None:
    async with gateway() as rig:
        reply = await rig.client().ask("GET", "/health", headers={"X-Request-Id": given})
        assert reply.headers["x-request-id"] not in (given, "")
        assert len(reply.headers["x-request-id"]) == 36


async def test_hanging_up_cancels_the_rpc() -> None:
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def waits(_request: Any, _context: Any) -> Any:
        arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with gateway({"ReportGps": waits}) as rig:
        client = rig.client()
        asking = asyncio.create_task(client.task("report_gps", GPS))
        await arrived.wait()
        await client.close()
        async with asyncio.timeout(60):
            await cancelled.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        labels = {"listener": "gateway", "path": "/execute", "code": "499"}
        await until(lambda: rig.metric("http_requests_total", **labels) == 1, "the hang-up is counted")


async def test_the_trace_goes_on_from_the_client_through_both_hops_with_true_status() -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def fails(_request: Any, _context: Any) -> Any:
        raise errors.NotFound("no order", reason=error_reason_pb2.ERROR_REASON_ORDER_UNKNOWN)

    async with gateway({"PredictEta": fails}) as rig:
        client = rig.client()
        await client.task("report_gps", GPS, headers={"traceparent": parent})
        await client.task("predict_eta", {"order_id": "o"}, headers={"traceparent": parent})
        spans = {(span.name, span.kind.name): span for span in rig.spans()}
    assert all(f"{span.context.trace_id:032x}" == parent[3:35] for span in spans.values())
    report = "waymesh.eta.v1.EtaService/ReportGps"
    predict = "waymesh.eta.v1.EtaService/PredictEta"
    for name in (report, predict):
        server, call = spans[name, "SERVER"], spans[name, "CLIENT"]
        assert server.parent is not None
        assert server.parent.span_id == call.context.span_id
    assert spans[report, "SERVER"].status.status_code.name == "OK"
    assert spans[predict, "CLIENT"].status.status_code.name == "ERROR"
    edge = [span for span in rig.spans() if span.name == "POST /execute"]
    assert [span.status.status_code.name for span in edge] == ["OK", "ERROR"]
    assert [span.attributes and span.attributes["http.response.status_code"] for span in edge] == [200, 404]


async def test_a_method_of_the_callers_own_is_in_no_span() -> None:
    async with gateway() as rig:
        assert (await rig.client().ask("wm_0123456789abcdefghijklmn", "/execute")).status == 405
        [span] = rig.spans()
    assert span.name == "HTTP /execute"
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"


@pytest.mark.parametrize("tracing", [True, False])
@pytest.mark.parametrize(
    ("state", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        ("a=é", None),
        ("a=\x80", None),
        ("a\t=1", None),
        ("a" * 513, None),
    ],
)
async def test_a_client_cannot_close_a_task_to_others_with_its_trace_state(
    state: str, kept: str | None, tracing: bool
) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    seen: list[dict[str, Any]] = []

    async def looks(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return await took_in(request, context)

    async with gateway({"ReportGps": looks}, tracing=tracing) as rig:
        client = rig.client()
        for _ in range(6):
            reply = await client.task(
                "report_gps", GPS, headers={"traceparent": parent, "tracestate": state, "baggage": "b=é"}
            )
            assert reply.status == 200, reply.json
        assert (await client.task("report_gps", GPS)).status == 200
    for metadata in seen[:6]:
        assert metadata["traceparent"][3:35] == parent[3:35]
        assert metadata.get("tracestate") == kept
        assert "baggage" not in metadata


async def test_health_says_what_lies_behind_without_failing_for_it() -> None:
    async with gateway() as rig:
        client = rig.client()
        await client.task("report_gps", GPS)
        for path in ("/health", "/health/ready"):
            reply = await client.ask("GET", path)
            assert reply.status == 200
            assert reply.json["status"] == "ok"
            assert reply.json["service"] == "gateway"
            assert reply.json["checks"]["eta"] == "ok"
            assert reply.json["checks"]["route"] != "ok"
        assert (await client.ask("GET", "/health/live")).json["status"] == "ok"


async def test_pages_are_served_without_a_key_and_head_has_no_body() -> None:
    async with gateway() as rig:
        client = rig.client()
        metrics = await client.ask("GET", "/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        assert b"http_requests_in_flight 1.0" in metrics.body
        for name in (
            b"agent_calls",
            b"agent_duration_seconds",
            b"active_sessions_current",
            b"waymesh_breaker_state",
        ):
            assert name in metrics.body
        document = (await client.ask("GET", "/openapi.json")).json
        assert document["openapi"] == "3.1.0"
        page = await client.ask("GET", "/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert b"http://" not in page.body
        assert b"https://" not in page.body
        assert "script-src 'sha256-" in page.headers["content-security-policy"]
        head = await client.ask("HEAD", "/docs")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == page.headers["content-length"]


async def test_a_task_that_no_service_has_had_is_counted_by_the_gateway() -> None:
    async with gateway() as rig:
        await rig.client().task("report_gps", GPS)
        await rig.client().task("report_gps", {**GPS, "driver_id": 7})
        await rig.client("agent-demo").task("report_gps", {**GPS, "driver_id": 7}, path="/run", key=None)
        await rig.client().task("optimize_route", {})
        assert rig.metric("agent_calls_total", agent_type="eta", status="success") == 0
        assert rig.metric("agent_calls_total", agent_type="gateway", status="failure") == 2
        assert rig.metric("agent_calls_total", agent_type="agent-demo", status="failure") == 1
        assert rig.metric("http_requests_total", listener="gateway", path="/execute", code="400") == 1
        assert rig.metric("http_requests_total", listener="gateway", path="/execute", code="503") == 1


async def test_tasks_under_way_are_the_sessions_of_their_listener() -> None:
    seen: list[tuple[float, float]] = []

    async def looks(request: Any, context: Any) -> Any:
        seen.append(
            (
                rig.metric("active_sessions_current", agent_type="gateway"),
                rig.metric("active_sessions_current", agent_type="agent-demo"),
            )
        )
        return await took_in(request, context)

    async with gateway({"ReportGps": looks}) as rig:
        await rig.client().task("report_gps", GPS)
        await rig.client("agent-demo").task("report_gps", GPS, path="/run", key=None)
        await rig.client().ask("GET", "/health")
        assert rig.metric("active_sessions_current", agent_type="gateway") == 0
    assert seen == [(1, 0), (0, 1)]


async def test_pages_of_other_origins_may_not_call_unless_named() -> None:
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    async with gateway() as rig:
        reply = await rig.client().ask("OPTIONS", "/execute", headers=asks)
        assert reply.status == 405
        reply = await rig.client().task("report_gps", GPS, headers={"Origin": "https://app.example"})
        assert not [name for name in reply.headers if name.startswith("access-control")]
    async with gateway(cors_origins="https://app.example, https://other.example") as rig:
        client = rig.client()
        reply = await client.ask("OPTIONS", "/execute", headers=asks)
        assert reply.status == 204
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert "x-api-key" in reply.headers["access-control-allow-headers"]
        assert reply.headers["access-control-allow-methods"] == "POST"
        assert (
            await client.ask("OPTIONS", "/execute", headers={**asks, "Origin": "https://evil.example"})
        ).status == 405
        reply = await client.task("report_gps", GPS, key="wrong", headers={"Origin": "https://app.example"})
        assert reply.headers["access-control-allow-origin"] == "https://app.example"
        assert reply.headers["vary"] == "origin"


async def test_requests_may_follow_each_other_before_their_answers() -> None:
    async with gateway() as rig:
        client = rig.client()
        headers = {"Content-Type": JSON, "X-API-Key": KEY}
        body = json.dumps({"task": "report_gps", "parameters": GPS}).encode()
        for n in range(5):
            await client.send("POST", "/execute", body, {**headers, "X-Request-Id": f"r{n}"})
        replies = [await client.receive() for _ in range(5)]
        assert [reply.json["request_id"] for reply in replies] == [f"r{n}" for n in range(5)]


async def test_a_head_that_does_not_come_ends_its_connection() -> None:
    async with gateway() as rig:
        rig.gateway.http._connections.arrival_s = 0.05
        for begun in (b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n"):
            client = rig.client()
            reader, writer = await client.connect()
            writer.write(begun)
            async with asyncio.timeout(60):
                assert await reader.read() == b""


async def test_a_body_that_does_not_come_is_a_504() -> None:
    async with gateway(timeout_ms=100) as rig:
        client = rig.client()
        headers = {"Content-Type": JSON, "X-API-Key": KEY, "Transfer-Encoding": "chunked"}
        await client.send("POST", "/execute", headers=headers)
        _, writer = await client.connect()
        writer.write(b"5\r\n12345\r\n")
        reply = await client.receive()
        assert (reply.status, reply.json["reason"]) == (504, "DEADLINE_PASSED")


@pytest.mark.parametrize("wish", ["h2c", "websocket"])
async def test_a_wish_for_another_protocol_is_passed_over(wish: str) -> None:
    """As Java's client sends it with a body: the request is answered in HTTP/1.1."""
    async with gateway() as rig:
        client = rig.client()
        headers = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": wish, "HTTP2-Settings": "AAMAAABk"}
        for _ in range(2):
            reply = await client.task("report_gps", {**GPS, "driver_id": "Upgrade: x"}, headers=headers)
            assert reply.status == 200
        assert (await client.ask("GET", "/health", headers=headers)).status == 200
        assert client.connections == 1


async def test_what_never_became_a_request_is_counted() -> None:
    async with gateway() as rig:
        client = rig.client()
        _, writer = await client.connect()
        writer.write(b"garbage\r\n\r\n")
        assert (await client.receive()).status == 400
        assert rig.metric("http_requests_total", listener="gateway", path="none", code="400") == 1
