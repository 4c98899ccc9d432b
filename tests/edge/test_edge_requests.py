"""What goes through the edge to a real gateway, what is stopped there, and how that is told."""

import asyncio
import contextlib
import json
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.mesh import principal
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.integration.gateway_rig import GPS, KEY, Client, Handler, Reply, Rig, gateway, took_in

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
LIMIT = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
PAGE = "https://app.example"
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /execute HTTP/1.1\r\nHost: x\r\n"
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
ERROR = {"error", "request_id", "duration_ms", "service", "code", "reason", "details"}


@asynccontextmanager
async def both(
    folder: Path, handler: Handler = took_in, **edge: Any
) -> AsyncIterator[tuple[RunningEdge, Rig]]:
    """A gateway, and the edge before it."""
    async with gateway({"ReportGps": handler}, **LIMIT) as rig:
        addresses = {"gateway": [f"127.0.0.1:{rig.gateway.public.port}"]}
        async with running_edge(folder, addresses, **edge) as running:
            await running.until_hosts("gateway", **{f"p{rig.gateway.public.port}": "healthy"})
            yield running, rig


pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Shared:
    """One edge and gateway for all tests that change nothing of them, and a client of theirs."""

    edge: RunningEdge
    rig: Rig
    client: Client
    seen: list[dict[str, str]]
    """Metadata of each call that came to the service behind, in this test."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Shared]:
    seen: list[dict[str, str]] = []

    async def handler(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return await took_in(request, context)

    async with both(tmp_path_factory.mktemp("edge"), handler, origins=[PAGE]) as (edge, rig):
        yield Shared(edge, rig, Client(edge.public), seen)


@pytest_asyncio.fixture(loop_scope="module")
async def shared(module_edge: Shared) -> AsyncIterator[Shared]:
    module_edge.seen.clear()
    yield module_edge
    await module_edge.client.close()


def is_told(reply: Reply, status: int, code: str, reason: str) -> None:
    """The house's error body, from the edge."""
    assert reply.status == status, reply.body
    told = reply.json
    assert set(told) == ERROR
    assert (told["service"], told["code"], told["reason"]) == ("edge", code, reason)
    assert told["details"] == []
    assert isinstance(told["duration_ms"], int | float)
    assert told["request_id"] == reply.headers["x-request-id"]


async def raw(edge: RunningEdge, request: bytes) -> bytes:
    """What comes for these bytes until the connection ends, which it does by itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.public)
    writer.write(request)
    answer = b""
    with contextlib.suppress(ConnectionResetError):  # after its last word
        async with asyncio.timeout(60):
            while piece := await reader.read(65536):
                answer += piece
    writer.close()
    return answer


async def test_a_task_is_answered_as_by_the_gateway_itself(shared: Shared) -> None:
    reply = await shared.client.task("report_gps", GPS)
    assert reply.status == 200
    assert reply.json["result"]["event_id"] == "event_1"


async def test_ids_go_through_and_stand_in_the_access_log(shared: Shared) -> None:
    sent = {"X-Request-Id": "order-456/7", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    reply = await shared.client.task("report_gps", GPS, headers=sent)
    assert reply.headers["x-request-id"] == reply.json["request_id"] == "order-456/7"
    line = await shared.edge.access(request_id="order-456/7")
    assert line["trace_id"] == TRACE == shared.seen[0]["traceparent"].split("-")[1]
    assert (line["path"], line["status"], line["cluster"], line["attempts"]) == (
        "/execute",
        200,
        "gateway",
        1,
    )


async def test_ids_are_made_where_none_comes(shared: Shared) -> None:
    reply = await shared.client.task("report_gps", GPS)
    line = await shared.edge.access(request_id=reply.json["request_id"])
    assert line["trace_id"] == shared.seen[0]["traceparent"].split("-")[1]
    assert re.fullmatch("[0-9a-f]{32}", line["trace_id"])


async def test_a_name_unfit_for_a_log_is_replaced_in_the_log_too(shared: Shared) -> None:
    reply = await shared.client.task("report_gps", GPS, headers={"X-Request-Id": "x" * 500})
    assert len(reply.json["request_id"]) == 36
    await shared.edge.access(request_id=reply.json["request_id"])


async def test_no_line_of_the_access_log_holds_a_query_or_a_key(shared: Shared) -> None:
    await shared.client.ask(
        "GET", "/health/live?token=canary-in-a-query", headers={"X-API-Key": "canary-as-a-key"}
    )
    await shared.edge.access(path="/health/live")
    assert "canary" not in (shared.edge.folder / "access.log").read_text()


async def test_nobody_outside_says_for_whom_he_asks(shared: Shared) -> None:
    spoofed = {
        principal.TENANT_KEY: "other",
        "X-Waymesh-Caller": "somebody",
        "X-WAYMESH-KEY": "0123456789ab",
    }
    assert (await shared.client.task("report_gps", GPS, headers=spoofed)).status == 200
    [metadata] = shared.seen
    assert principal.TENANT_KEY not in metadata
    assert metadata[principal.CALLER_KEY] != "somebody"
    assert metadata[principal.API_KEY_KEY] != "0123456789ab"


async def upstream_heads(folder: Path, request: bytes) -> str:
    """What a request has become when it leaves the edge, by a listener that writes it down."""
    heads: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/health/ready" not in head:
            heads.append(head)
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: secret/1.2\r\nx-powered-by: cats\r\ncontent-length: 0\r\n\r\n"
        )
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, running_edge(folder, {"gateway": [f"127.0.0.1:{port}"]}) as edge:
        await edge.until_hosts("gateway", **{f"p{port}": "healthy"})
        answer = await raw(edge, request)
        assert b"secret" not in answer
        assert b"cats" not in answer
    [head] = heads
    return head.decode("latin-1").lower()


async def test_what_would_command_a_proxy_or_name_a_hop_is_left_behind(tmp_path: Path) -> None:
    head = await upstream_heads(
        tmp_path,
        b"GET /a//b/../c HTTP/1.1\r\nHost: edge\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\n"
        b"x-envoy-max-retries: 9\r\nX-Envoy-Retry-On: 5xx\r\nx-envoy-upstream-rq-timeout-ms: 1\r\n"
        b"x-envoy-original-path: /metrics\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n"
        b"X-Real-IP: 10.0.0.1\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /metrics\r\n"
        b"Proxy-Authorization: Basic eA==\r\nTE: gzip\r\nX-Kept: yes\r\n\r\n",
    )
    assert head.startswith("get /a/c http/1.1\r\n")
    assert "x-kept: yes" in head
    assert head.count("x-forwarded-for: ") == 1
    for gone in (
        "x-envoy-max",
        "x-envoy-retry",
        "x-envoy-up",
        "x-envoy-orig",
        "10.0.0.1",
        "override",
        "x-original",
    ):
        assert gone not in head, gone
    for gone in ("proxy-authorization", "te: gzip", "x-hop", "connection: close"):
        assert gone not in head, gone


async def test_answers_say_how_browsers_are_to_take_them_and_not_what_made_them(shared: Shared) -> None:
    for reply in (
        await shared.client.task("report_gps", GPS),
        await shared.client.ask("GET", "/docs"),
        await shared.client.ask("GET", "/metrics"),
        await shared.client.ask("GET", "/a%2Fb"),
    ):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["x-frame-options"] == "DENY"
        assert reply.headers["strict-transport-security"] == "max-age=31536000"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["content-security-policy"]
        assert "server" not in reply.headers
        assert not [name for name in reply.headers if name.startswith("x-envoy")]
    page = await shared.client.ask("GET", "/docs")
    assert "script-src" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["/metrics", "/authorize", "/authorize/waymesh.eta.v1.EtaService/PredictEta"]
)
async def test_what_is_for_those_within_is_not_served(shared: Shared, path: str) -> None:
    for asked in (path, path.replace("/", "//", 1), f"/x/..{path}", f"{path}?x", path.replace("e", "%65")):
        is_told(
            await shared.client.ask("GET", asked, headers={"X-API-Key": KEY}),
            404,
            "NOT_FOUND",
            "UNKNOWN_PATH",
        )


@pytest.mark.parametrize(
    ("status", "code", "reason", "method", "path", "headers", "body"),
    [
        (400, "INVALID_ARGUMENT", "MALFORMED_BODY", "GET", "/api/agents/a%2Fb", {}, b""),
        (400, "INVALID_ARGUMENT", "MALFORMED_BODY", "GET", "/api/agents/a%5cb", {}, b""),
        (400, "INVALID_ARGUMENT", "MALFORMED_BODY", "GET", "/health", {"x_api_key": KEY}, b""),
        (413, "INVALID_ARGUMENT", "BODY_TOO_LARGE", "POST", "/execute", {}, b"x" * ((2 << 20) + 1)),
        (431, "INVALID_ARGUMENT", "HEADERS_TOO_LARGE", "GET", "/health", {"X-Long": "x" * (17 << 10)}, b""),
        (
            431,
            "INVALID_ARGUMENT",
            "HEADERS_TOO_LARGE",
            "GET",
            "/health",
            {f"X-{n}": "" for n in range(120)},
            b"",
        ),
    ],
    ids=[
        "escaped slash",
        "escaped backslash",
        "underscore",
        "large body",
        "long headers",
        "many headers",
    ],
)
async def test_what_the_edge_refuses_it_tells_as_the_gateway_would(
    shared: Shared,
    status: int,
    code: str,
    reason: str,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
) -> None:
    is_told(await shared.client.ask(method, path, body, headers), status, code, reason)


@pytest.mark.parametrize(
    "request_",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: +5\r\n\r\nhello",
        GET + b"X:\x00y\r\n\r\n",
        b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n",
        GET + b"Host: y\r\nConnection: close\r\n\r\n",
        b"GET http://other/health\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=[
        "length and chunks",
        "two lengths",
        "other coding",
        "space before colon",
        "signed length",
        "nul in a header",
        "HTTP/1.0",
        "two hosts",
        "nul in the path",
    ],
)
async def test_what_two_readers_could_read_differently_is_refused(shared: Shared, request_: bytes) -> None:
    before = shared.rig.metric("waymesh_gateway_requests_total")
    answer = await raw(shared.edge, request_)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 426", b"HTTP/1.1 501"), answer
    assert answer.count(b"content-length: ") == 1
    assert set(json.loads(answer.rpartition(b"\r\n\r\n")[2])) == ERROR
    assert b"waymesh_" not in answer
    assert shared.rig.metric("waymesh_gateway_requests_total") == before


async def test_more_than_the_edge_takes_of_one_connection_is_told_when_to_come_again(tmp_path: Path) -> None:
    limits = {"max_tokens: 1000": "max_tokens: 3", "tokens_per_fill: 50\n": "tokens_per_fill: 1\n"}
    async with both(tmp_path, change=limits) as (edge, _):
        client = Client(edge.public)
        replies = [await client.ask("GET", "/health/live") for _ in range(30)]
        refused = next(reply for reply in replies if reply.status != 200)
        is_told(refused, 429, "RESOURCE_EXHAUSTED", "RATE_LIMITED")
        assert refused.headers["retry-after"] == "1"
        other = Client(edge.public)
        assert (await other.ask("GET", "/health/live")).status == 200
        await client.close()
        await other.close()


async def test_nobody_behind_is_told_without_saying_who(tmp_path: Path) -> None:
    async with running_edge(tmp_path, {}) as edge:
        client = Client(edge.public)
        reply = await client.task("report_gps", GPS)
        is_told(reply, 503, "UNAVAILABLE", "TARGET_UNAVAILABLE")
        assert reply.headers["retry-after"] == "1"
        assert b"127.0.0.1" not in reply.body
        assert b"refused" not in reply.body
        await client.close()


async def test_a_request_that_does_not_come_ends(tmp_path: Path) -> None:
    async with both(
        tmp_path,
        change={
            "request_headers_timeout: 10s": "request_headers_timeout: 0.2s",
            "request_timeout: 15s": "request_timeout: 0.2s",
        },
    ) as (edge, _):
        head = await raw(edge, b"GET /health HTTP/1.1\r\nHost: x\r\n")
        assert head.startswith(b"HTTP/1.1 408"), head
        body = await raw(edge, b"POST /execute HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        assert body.startswith(b"HTTP/1.1 408"), body
        assert json.loads(body.rpartition(b"\r\n\r\n")[2])["reason"] == "DEADLINE_PASSED"


async def test_a_compressed_body_is_not_unpacked_by_anybody(shared: Shared) -> None:
    bomb = zlib.compress(b" " * (20 << 20))
    reply = await shared.client.post("/execute", bomb, headers={"Content-Encoding": "gzip"})
    assert reply.status in (400, 415), reply.status
    assert reply.json["service"] == "gateway"


async def test_pages_of_named_origins_may_call_and_no_others(shared: Shared) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key"}
    yes = await shared.client.ask("OPTIONS", "/execute", headers={"Origin": "https://app.example", **asked})
    assert yes.status == 200
    assert yes.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-api-key" in yes.headers["access-control-allow-headers"]
    no = await shared.client.ask("OPTIONS", "/execute", headers={"Origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in no.headers
    done = await shared.client.task("report_gps", GPS, headers={"Origin": "https://app.example"})
    assert done.headers["access-control-allow-origin"] == "https://app.example"
    assert "x-request-id" in done.headers["access-control-expose-headers"]
    # A page has to be able to read why it was refused, too.
    large = await shared.client.post(
        "/execute", b"x" * ((2 << 20) + 1), headers={"Origin": "https://app.example"}
    )
    assert large.status == 413
    assert large.headers["access-control-allow-origin"] == "https://app.example"


async def test_pages_of_named_origins_may_call_typed_services_too(shared: Shared) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-grpc-web"}
    client = Client(shared.edge.ports["internal"])
    path = "/waymesh.eta.v1.EtaService/ReportGps"
    reply = await client.ask("OPTIONS", path, headers={"Origin": PAGE, **asked})
    await client.close()
    assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, PAGE)


async def test_whether_to_send_requests_here_and_figures_are_told_on_a_port_of_their_own(
    tmp_path: Path,
) -> None:
    async with both(tmp_path) as (edge, _):
        client = Client(edge.ports["probe"])
        assert (await client.ask("GET", "/ready")).status == 200
        await client.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.ports["probe"])
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"envoy_cluster_upstream_rq" in await reader.read()
        writer.close()
        assert (await client.ask("GET", "/server_info")).status == 404
        await edge.admin("/healthcheck/fail")
        assert (await client.ask("GET", "/ready")).status == 503
        await client.close()
