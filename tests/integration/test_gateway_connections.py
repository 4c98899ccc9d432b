"""What a client can do to a connection: send nothing, too much, too slowly, or what is no request."""

import asyncio
import json
from typing import Any

import pytest
from gateway_rig import GPS, JSON, KEY, Client, gateway, took_in

from services.gateway.connection import Connection
from tests.processes import until


async def write(client: Client, data: bytes) -> asyncio.StreamReader:
    """Bytes as they stand."""
    reader, writer = await client.connect()
    writer.write(data)
    await writer.drain()
    return reader


def head(line: str, *headers: str, host: str = "localhost", key: str = KEY) -> bytes:
    """Of a request for a task, of which only the rest is the test's."""
    own = [f"Host: {host}", f"Content-Type: {JSON}", *([f"X-API-Key: {key}"] if key else [])]
    return "\r\n".join([f"{line} HTTP/1.1", *own, *headers, "", ""]).encode()


# --- bodies that do not come ------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("listener", "path", "key"), [("gateway", "/execute", KEY), ("agent-demo", "/run", "")]
)
async def test_a_body_that_never_begins_is_a_504_and_the_end(
    listener: str, path: str, key: str, framing: str
) -> None:
    async with gateway(timeout_ms=100) as rig, asyncio.timeout(60):
        client = rig.client(listener)
        await write(client, head(f"POST {path}", framing, key=key))
        reply = await client.receive()
        assert (reply.status, reply.json["reason"]) == (504, "DEADLINE_PASSED")
        assert reply.headers["connection"] == "close"


async def test_a_drain_waits_for_no_body_that_does_not_come() -> None:
    async with gateway(timeout_ms=60_000) as rig, asyncio.timeout(60):
        rig.gateway.http._arriving_s = 0.0
        silent, dripping, headless = (rig.client("agent-demo") for _ in range(3))
        await write(silent, head("POST /run", "Content-Length: 100", key=""))
        await write(dripping, head("POST /run", "Content-Length: 100", key="") + b"{")
        reader = await write(headless, b"POST /run HTT")
        await until(lambda: len(rig.gateway.http._connections.open) == 3, "all are connected")
        await until(lambda: rig.metric("http_requests_in_flight") == 2, "two requests are under way")
        await rig.gateway.http.drain(0)
        for client in (silent, dripping):
            reply = await client.receive()
            assert (reply.status, reply.json["reason"]) == (503, "DRAINING")
            assert reply.headers["retry-after"] == "1"
        assert await reader.read() == b""


# --- trailers ---------------------------------------------------------------------------------------------

BODY = json.dumps({"task": "report_gps", "parameters": GPS}).encode()
CHUNKED = "Transfer-Encoding: chunked"
LAST_CHUNKS = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)


async def test_trailers_are_no_headers() -> None:
    late = f"X-API-Key: {KEY}\r\nX-Request-Id: late\r\n\r\n".encode()
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        await write(client, head("POST /execute", CHUNKED) + LAST_CHUNKS + late)
        reply = await client.receive()
        assert reply.status == 200
        assert reply.json["request_id"] != "late"
        await write(client, head("POST /execute", CHUNKED, key="") + LAST_CHUNKS + late)
        assert (await client.receive()).status == 401
        assert (await client.task("report_gps", GPS)).status == 200
        assert client.connections == 1


@pytest.mark.parametrize(
    "piece", [b"a: b\r\n" * 1000, b"a" * 5000 + b": b\r\n", b"a" * 5000], ids=["many", "long", "endless"]
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_trailers_are_as_large_as_heads_may_be(piece: bytes, at_once: bool) -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client("agent-demo")
        begun = head("POST /run", CHUNKED, key="") + LAST_CHUNKS
        if at_once:
            await write(client, begun + piece * 200)
        else:
            await write(client, begun)
            await until(lambda: rig.metric("http_requests_in_flight") == 1, "the request is under way")
            for _ in range(200):
                await write(client, piece)
        reply = await client.receive()
        assert (reply.status, reply.json["reason"]) == (431, "HEADERS_TOO_LARGE")
        assert "trailers" in reply.json["error"]


# --- what comes after the answer --------------------------------------------------------------------------


async def drip(client: Client, piece: bytes) -> None:
    """Sends on and on, until the server ends the connection."""
    reader, writer = await client.connect()
    while True:
        try:
            async with asyncio.timeout(0.01):
                assert await reader.read() == b""
                return
        except TimeoutError:
            writer.write(piece)
        except ConnectionError:
            return


@pytest.mark.parametrize(("key", "status"), [("wm_wrong", 401), (KEY, 504)])
async def test_a_body_that_drips_after_its_answer_ends_the_connection(key: str, status: int) -> None:
    async with gateway(timeout_ms=100) as rig, asyncio.timeout(60):
        rig.gateway.http._connections.arrival_s = 0.1
        client = rig.client()
        reader = await write(client, head("POST /execute", "Content-Length: 100000", key=key) + b"{")
        line = await reader.readline()
        assert int(line.split()[1]) == status
        length = int((await reader.readuntil(b"\r\n\r\n")).lower().split(b"content-length: ")[1].split()[0])
        await reader.readexactly(length)
        await drip(client, b" ")
        await until(lambda: not rig.gateway.http._connections.open, "the server has forgotten it")


async def test_empty_lines_do_not_keep_a_connection() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        rig.gateway.http._connections.arrival_s = 0.1
        client = rig.client()
        assert (await client.ask("GET", "/health/live")).status == 200
        await drip(client, b"\r\n")


async def test_a_body_that_came_after_its_answer_leaves_the_connection_as_it_was() -> None:
    async with gateway(keep_alive_s=0.2) as rig, asyncio.timeout(60):
        rig.gateway.http._connections.arrival_s = 60
        client = rig.client()
        for _ in range(2):
            await write(client, head("POST /execute", "Content-Length: 4", key="wm_wrong"))
            assert (await client.receive()).status == 401
            reader = await write(client, b"1234")
        assert client.connections == 1
        assert await reader.read() == b""  # silent from here on


# --- what follows a request -------------------------------------------------------------------------------

WHOLE = head("POST /execute", f"Content-Length: {len(BODY)}") + BODY
BROKEN = [
    pytest.param(b"garbage\r\n\r\n", 400, "MALFORMED_BODY", id="no HTTP"),
    pytest.param(b"GET /health HTTP/1.1\r\na: " + b"b" * 20_000, 431, "HEADERS_TOO_LARGE", id="large head"),
    pytest.param(head("POST /execute", CHUNKED) + b"no size\r\n", 400, "MALFORMED_BODY", id="broken body"),
]


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(("broken", "status", "reason"), BROKEN)
async def test_what_follows_a_request_does_not_take_its_answer(
    broken: bytes, status: int, reason: str, at_once: bool, requests: int
) -> None:
    go_on = asyncio.Event()
    called = 0

    async def waits(request: Any, context: Any) -> Any:
        nonlocal called
        called += 1
        await go_on.wait()
        return await took_in(request, context)

    async with gateway({"ReportGps": waits}) as rig, asyncio.timeout(60):
        client = rig.client()
        if at_once:
            await write(client, WHOLE * requests + broken)
        else:
            await write(client, WHOLE * requests)
            await until(lambda: called == 1, "the first request is under way")
            await write(client, broken)
        await until(lambda: called == 1, "the first request is under way")
        go_on.set()
        for _ in range(requests):
            assert (await client.receive()).status == 200
        last = await client.receive()  # sees that nothing follows
        assert (last.status, last.json["reason"]) == (status, reason)
        assert last.headers["connection"] == "close"
        assert called == requests
        await until(lambda: not rig.gateway.http._connections.open, "the server has forgotten it")


async def test_hanging_up_cancels_the_rpc_whatever_followed_its_request() -> None:
    arrived, cancelled = asyncio.Event(), asyncio.Event()

    async def waits(_request: Any, _context: Any) -> Any:
        arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with gateway({"ReportGps": waits}) as rig, asyncio.timeout(60):
        client = rig.client()
        await write(client, WHOLE + b"garbage\r\n\r\n")
        await arrived.wait()
        await client.close()
        await cancelled.wait()


async def test_a_next_head_that_does_not_come_waits_for_the_answer_before_it() -> None:
    go_on = asyncio.Event()

    async def waits(request: Any, context: Any) -> Any:
        await go_on.wait()
        return await took_in(request, context)

    async with gateway({"ReportGps": waits}) as rig, asyncio.timeout(60):
        rig.gateway.http._connections.arrival_s = 0.05
        client = rig.client()
        reader = await write(client, WHOLE + b"GET /hea")
        connection = next(iter(rig.gateway.http._connections.open))
        await until(lambda: connection._last is not None, "the head is late")
        go_on.set()
        assert (await client.receive()).status == 200
        assert await reader.read() == b""


async def test_a_method_that_no_path_has_is_a_request_like_any_other() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        for _ in range(2):
            odd = head("FOO /execute", f"Content-Length: {len(BODY)}", "X-Request-Id: odd")
            await write(client, odd[:60])
            await until(lambda: rig.gateway.http._connections.open, "the connection is there")
            await write(client, odd[60:] + BODY)
            reply = await client.receive()
            assert (reply.status, reply.headers["allow"]) == (405, "POST")
            assert reply.json["request_id"] == "odd"
            assert (await client.task("report_gps", GPS)).status == 200
        assert client.connections == 1


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [("evil:443", 404, "UNKNOWN_PATH"), ("/execute", 405, "METHOD_NOT_ALLOWED"), ("/x", 404, "UNKNOWN_PATH")],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_nobody_is_led_to_another_host(target: str, status: int, reason: str, at_once: bool) -> None:
    sent = head(f"CONNECT {target}", "Content-Length: 3", host="evil:443")
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        if at_once:
            await write(client, sent + WHOLE)
        else:
            for place in range(0, len(sent), 10):
                await write(client, sent[place : place + 10])
        reply = await client.receive()  # sees that nothing follows
        assert (reply.status, reply.json["reason"]) == (status, reason)
        assert reply.headers["connection"] == "close"


@pytest.mark.parametrize(
    "line",
    ["FOO /execute", "FOO /execute HTTP/2.0", "FOO  /execute HTTP/1.1", "F(O /execute HTTP/1.1", "FOO"],
)
async def test_what_does_not_look_like_a_request_is_no_http(line: str) -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        await write(client, f"{line}\r\nHost: x\r\n\r\n".encode())
        reply = await client.receive()
        assert (reply.status, reply.json["error"]) == (400, "this is not HTTP")


async def test_the_rest_of_a_broken_head_is_no_request_of_its_own() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        assert (await client.ask("GET", "/health/live")).status == 200
        await write(client, b"GET /health/live HTTP/1.1\r\nContent-Length: 0\r\nX-Text: some ")
        connection = next(iter(rig.gateway.http._connections.open))
        await until(lambda: connection._head_bytes > 0, "the head has begun")
        await write(client, b"FOO /execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        assert (await client.receive()).status == 400


# --- wishes for another protocol --------------------------------------------------------------------------


async def test_a_wish_for_another_protocol_is_passed_over_wherever_its_head_is_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As Java's client sends it, in two pieces that arrive one by one, and a request after it."""
    body = json.dumps({"task": "report_gps", "parameters": GPS}).encode()
    wish = ("Connection: Upgrade, HTTP2-Settings", f"Content-Length: {len(body)}", "Upgrade: h2c")
    whole = head("POST /execute", *wish, "HTTP2-Settings: AAEAAEAA", host="x", key=KEY)
    first = whole.index(b"\r\n")
    arrived = asyncio.Event()
    take = Connection.data_received

    def received(connection: Connection, data: bytes) -> None:
        take(connection, data)
        arrived.set()

    monkeypatch.setattr(Connection, "data_received", received)
    wrong = []
    async with gateway(rate_per_s=1_000_000, rate_burst=1_000_000) as rig, asyncio.timeout(120):
        for cut in range(first, len(whole) + 1):
            client = rig.client()
            arrived.clear()
            await write(client, whole[:cut])
            await arrived.wait()
            await write(client, whole[cut:] + body + head("GET /health"))
            statuses = [(await client.receive()).status for _ in range(2)]
            await client.close()
            if statuses != [200, 200]:
                wrong.append((whole[:cut][-12:], statuses))
    assert wrong == []


async def test_wishes_in_one_piece_are_each_passed_over() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        await write(client, head("GET /health", "Connection: Upgrade", "Upgrade: h2c") * 3)
        assert [(await client.receive()).status for _ in range(3)] == [200] * 3


async def test_a_wish_makes_no_head_smaller() -> None:
    async with gateway(max_head_bytes=4096) as rig, asyncio.timeout(60):
        client = rig.client()
        filling = [f"X-Filling-{number}: {'x' * 1000}" for number in range(4)]
        whole = head("GET /health", "Connection: Upgrade", "Upgrade: h2c", *filling)
        await write(client, whole[:3000])
        await until(
            lambda: [each for each in rig.gateway.http._connections.open if each._head_bytes], "a piece"
        )
        await write(client, whole[3000:])
        assert (await client.receive()).status == 431


async def test_the_end_of_a_body_does_not_count_towards_the_head_that_begins_behind_it() -> None:
    async with gateway(max_head_bytes=1024) as rig, asyncio.timeout(60):
        client = rig.client()
        first = head("POST /execute", "Content-Type: application/json", "Content-Length: 5000")
        second = head("GET /health")
        await write(client, first)
        await until(lambda: [each for each in rig.gateway.http._connections.open if each._in_body], "a head")
        await write(client, b" " * 5000 + second[:20])
        assert (await client.receive()).status == 400
        await write(client, second[20:])
        assert (await client.receive()).status == 200
