"""What a client can do to a connection: send nothing, too much, too slowly, or what is no request."""

import asyncio

import pytest
from gateway_rig import JSON, KEY, Client, gateway

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
    async with gateway(timeout_ms=100) as rig, asyncio.timeout(10):
        client = rig.client(listener)
        await write(client, head(f"POST {path}", framing, key=key))
        reply = await client.receive()
        assert (reply.status, reply.json["reason"]) == (504, "DEADLINE_PASSED")
        assert reply.headers["connection"] == "close"


async def test_a_drain_waits_for_no_body_that_does_not_come() -> None:
    async with gateway(timeout_ms=60_000) as rig, asyncio.timeout(10):
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
