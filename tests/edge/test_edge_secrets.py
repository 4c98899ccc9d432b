"""What of the words that callers send the edge writes: into its log, and into spans."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.mesh import request_id
from tests.edge.edge_rig import RunningEdge, running_edge
from tests.edge.test_edge_identity import FRAME, by_http_2
from tests.edge.test_edge_services import FIX, PATH
from tests.integration.gateway_rig import KEY, Client, gateway, took_in
from tests.integration.otlp_collector import Collector, collector

GUARD_S = 60.0
# Of the form of our keys, so that it may stand nowhere, and a word that may.
SECRET = "wm_canary-0123456789abcdefghijkl"
ORDER = "order-of-somebody"
NAME = "a-name-of-the-callers"
SAID = {
    "User-Agent": "canary-agent/1.0",
    "Cookie": "session=canary-cookie",
    "Referer": "https://canary-referer.example/",
    "Authorization": "Bearer canary-authorization",
    "X-Forwarded-Host": "canary-host.example",
    "X-Api-Version": "canary-version",
}
# Answered by the gateway, by a route of the edge, by the edge before it looks at routes.
PATHS = (f"/api/orders/{ORDER}", f"/api/orders/{SECRET}", "/health", "/metrics", "/a%2Fb", "/nowhere")


class Sink(Collector):
    """A collector that remembers every word."""

    words = ""

    async def _take(self, request: Any) -> None:
        self.words += str(request)
        await super()._take(request)


@dataclass
class Listened:
    """An edge that writes to a sink."""

    edge: RunningEdge
    sink: Sink

    @property
    def log(self) -> str:
        return (self.edge.folder / "access.log").read_text() + self.edge.log.read_text()


def trace(number: int) -> str:
    return f"{number:032x}"


def parent(number: int) -> str:
    return f"00-{trace(number)}-00f067aa0ba902b7-01"


@asynccontextmanager
async def listened(folder: Path) -> AsyncIterator[Listened]:
    sink = Sink()
    flush = "http.max_requests_per_io_cycle: 1\n"
    async with collector(sink), gateway({"ReportGps": took_in}) as rig:
        addresses = {
            "gateway": [f"127.0.0.1:{rig.gateway.public.port}"],
            "eta": [f"127.0.0.1:{rig.eta.port}"],
            "collector": [sink.endpoint.removeprefix("http://")],
        }
        soon = {
            flush: f"{flush}      tracing.opentelemetry.flush_interval_ms: 50\n",
            "delayed_close_timeout: 1s": "delayed_close_timeout: 0.05s",
        }
        async with running_edge(folder, addresses, change=soon) as edge:
            await edge.until_hosts("gateway", **{f"p{rig.gateway.public.port}": "healthy"})
            await edge.until_hosts("eta", **{f"p{rig.eta.port}": "healthy"})
            async with asyncio.timeout(GUARD_S):
                yield Listened(edge, sink)


async def asked(edge: RunningEdge, path: str, named: str, number: int) -> str:
    """The id that the answer has."""
    client = Client(edge.public)
    headers = {**SAID, "X-API-Key": SECRET, "X-Request-Id": named, "traceparent": parent(number)}
    reply = await client.ask("GET", f"{path}?token=canary-query&key={SECRET}", b"", headers)
    await client.close()
    return reply.headers["x-request-id"]


async def called(edge: RunningEdge, path: str, key: str, named: str, number: int) -> None:
    said = tuple((name.lower(), value) for name, value in SAID.items() if name != "User-Agent")
    metadata = (*said, ("x-api-key", key), ("x-request-id", named), ("traceparent", parent(number)))
    options = (("grpc.primary_user_agent", "canary-agent"), ("grpc.default_authority", "canary-authority"))
    async with grpc.aio.insecure_channel(edge.internal, options=options) as channel:
        call = channel.unary_unary(path)(FIX.SerializeToString(), metadata=metadata, timeout=10)
        await call.code()


async def test_of_what_a_caller_sends_neither_log_nor_spans_hold_more_than_ids(tmp_path: Path) -> None:
    async with listened(tmp_path) as here:
        for number, path in enumerate(PATHS, 1):
            told = await asked(here.edge, path, SECRET, number)
            assert request_id.is_valid(told), told
        methods = (PATH, f"/canary.v1.Canary/{SECRET}", f"/{SECRET}", f"/a%2F{SECRET}")
        for number, (path, key) in enumerate(itertools.product(methods, (KEY, SECRET)), 100):
            await called(here.edge, path, key, SECRET, number)
        await asked(here.edge, "/health", NAME, 200)
        await here.edge.access(request_id=NAME)
        await here.sink.trace(trace(200), 1)
        await here.sink.trace(trace(100), 1)
        log, words = here.log, here.sink.words
    assert "canary" not in log
    assert "canary" not in words
    # And both are what they are looked for in.
    assert ORDER in log
    assert ORDER not in words
    assert NAME in words
    assert PATH in log
    assert PATH in words


async def test_a_name_that_no_log_would_take_is_replaced_by_the_edge_as_well(tmp_path: Path) -> None:
    async with listened(tmp_path) as here:
        for number, path in enumerate(("/health", "/metrics", "/a%2Fb"), 1):
            for named in (SECRET, "x" * 129, "two words", "sk-0123456789abcdef0123"):
                told = await asked(here.edge, path, named, number)
                assert len(told) == 36, told
                await here.edge.access(request_id=told)
            for named in ("x" * 128, "order-456/7", "task_1", "ask-me"):
                assert await asked(here.edge, path, named, number) == named
                await here.edge.access(request_id=named)


# Words of a caller in places that no library of HTTP lets him write to.
ODD = (
    (b":method", b"canary-method"),
    (b":method", SECRET.encode()),
    (b":path", f"/a%2F%77{SECRET[1:]}".encode()),
    (b"x-request-id", b"canary-\xff"),
    (b"content-type", b"application/grpc+canary"),
    (b"grpc-timeout", b"canary"),
    (b"tracestate", f"vendor={SECRET}".encode()),
    (b"tracestate", b"vendor=canary" + b"x" * 512),
)


async def test_what_no_client_would_send_is_not_written_down_either(tmp_path: Path) -> None:
    async with listened(tmp_path) as here:
        for number, odd in enumerate(ODD, 1):
            headers = {
                b":method": b"POST",
                b":scheme": b"http",
                b":authority": b"edge",
                b":path": PATH.encode(),
                b"content-type": b"application/grpc",
                b"te": b"trailers",
                b"x-api-key": KEY.encode(),
                b"traceparent": parent(number).encode(),
            }
            for listener in ("public", "internal"):
                await by_http_2(here.edge.ports[listener], list({**headers, odd[0]: odd[1]}.items()), FRAME)
        await called(here.edge, PATH, KEY, NAME, 200)
        await here.edge.access(request_id=NAME)
        await here.sink.trace(trace(200), 1)
        log, words = here.log, here.sink.words
    assert "canary" not in log
    assert "canary" not in words
    assert '"method":"_OTHER"' in log


async def test_what_other_tracers_have_to_say_goes_on(tmp_path: Path) -> None:
    async with listened(tmp_path) as here:
        client = Client(here.edge.public)
        headers = {"traceparent": parent(1), "tracestate": "vendor=1,other=a b"}
        await client.ask("GET", "/health", b"", headers)
        await client.close()
        await here.sink.trace(trace(1), 1)
        words = here.sink.words
    assert "vendor=1,other=a b" in words
