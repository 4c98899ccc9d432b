"""Who a request says it is for: the runtimes take no key, so they serve their own machine and no web page."""

import asyncio

import pytest
from gateway_rig import GPS, KEY, gateway

LOCAL = ["localhost", "LocalHost:3001", "127.0.0.1", "127.8.9.10:1", "[::1]", "[::1]:3001", "localhost:"]
OTHER = [
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example:3001",
    "evil.example:3001",
    "192.168.1.2",
    "0.0.0.0",
    "[::]:3001",
    "[fe80::1]",
    "localhost:3001@evil.example",
    "127.0.0.1, evil.example",
    "",
]


@pytest.mark.parametrize("path", ["/run", "/health", "/none"])
@pytest.mark.parametrize("host", OTHER)
async def test_a_runtime_on_loopback_serves_no_other_name(host: str, path: str) -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client("agent-demo")
        client.sent_host = host
        if path == "/run":
            reply = await client.task("report_gps", GPS, path=path, key=None)
        else:
            reply = await client.ask("GET", path)
        told = (reply.status, reply.json["code"], reply.json["reason"])
        assert told == (403, "PERMISSION_DENIED", "HOST_NOT_LOCAL")
        assert reply.json["service"] == "agent-demo"


@pytest.mark.parametrize("listener", ["agent-demo", "agent-custom"])
async def test_a_runtime_on_loopback_serves_loopback_by_any_name_and_port(listener: str) -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client(listener)
        for host in LOCAL:
            client.sent_host = host
            assert (await client.task("report_gps", GPS, path="/run", key=None)).status == 200


async def test_the_public_listener_and_an_open_runtime_have_the_names_that_others_give_them() -> None:
    async with gateway(runtime_host="0.0.0.0", allow_plaintext=True) as rig, asyncio.timeout(60):
        for listener, path, key in (("gateway", "/execute", KEY), ("agent-demo", "/run", None)):
            client = rig.client(listener)
            client.sent_host = "waymesh.example"
            assert (await client.task("report_gps", GPS, path=path, key=key)).status == 200


@pytest.mark.parametrize(
    ("listener", "headers", "named"),
    [
        ("gateway", ("Host: a", "Host: a", f"X-API-Key: {KEY}"), "host"),
        ("gateway", ("Host: a", f"X-API-Key: {KEY}", "X-API-Key: other"), "x-api-key"),
        ("gateway", ("Host: a", f"X-API-Key: {KEY}", f"x-api-key: {KEY}"), "x-api-key"),
        ("gateway", (f"X-API-Key: {KEY}",), "host"),
        ("agent-demo", ("Host: evil.example", "Host: localhost"), "host"),
        ("agent-demo", ("Host: localhost", "Host: evil.example"), "host"),
    ],
)
async def test_what_must_come_once_is_a_400_otherwise(
    listener: str, headers: tuple[str, ...], named: str
) -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client(listener)
        _, writer = await client.connect()
        writer.write("\r\n".join(["GET /health HTTP/1.1", *headers, "", ""]).encode())
        reply = await client.receive()
        assert (reply.status, reply.json["code"]) == (400, "INVALID_ARGUMENT")
        assert named in reply.json["error"]


async def test_http_1_0_knows_no_host() -> None:
    async with gateway() as rig, asyncio.timeout(60):
        client = rig.client()
        _, writer = await client.connect()
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        assert (await client.receive()).status == 200
