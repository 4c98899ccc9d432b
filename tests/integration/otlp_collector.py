"""An OTLP collector: takes spans by HTTP as Jaeger does, and says what came, trace by trace."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

OK, ERROR = Status.STATUS_CODE_OK, Status.STATUS_CODE_ERROR
SERVER, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT


@dataclass(frozen=True)
class Hop:
    """A span as the collector saw it."""

    service: str
    kind: int
    name: str
    trace_id: str
    span_id: str
    parent: str
    status: int
    attributes: dict[str, Any]

    @property
    def place(self) -> str:
        """Such as `route client`."""
        return f"{self.service} {'server' if self.kind == SERVER else 'client'}"

    @property
    def code(self) -> int:
        """Number of the gRPC code it tells."""
        return int(self.attributes["rpc.grpc.status_code"])


class Collector:
    """`endpoint` is what OTEL_EXPORTER_OTLP_ENDPOINT is to hold."""

    def __init__(self) -> None:
        self.endpoint = ""
        self._hops: dict[str, list[Hop]] = {}
        self._news = asyncio.Condition()

    async def trace(self, trace_id: str, places: int) -> list[Hop]:
        """The spans of a trace, callers before those they called, once there are so many."""
        async with asyncio.timeout(60), self._news:
            await self._news.wait_for(lambda: len(self._hops.get(trace_id, ())) >= places)
        found = self._hops[trace_id]
        by_parent = {hop.parent: hop for hop in found}
        (root,) = (hop for hop in found if hop.parent not in {other.span_id for other in found})
        ordered = [root]
        while (below := by_parent.get(ordered[-1].span_id)) is not None:
            ordered.append(below)
        assert len(ordered) == len(found), f"not one line of calls: {[hop.place for hop in found]}"
        return ordered

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of an exporter."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                lines = [line.partition(":") for line in head.split("\r\n")[1:] if line]
                headers = {name.lower(): value.strip() for name, _, value in lines}
                assert head.startswith("POST /v1/traces ")
                assert headers["content-type"] == "application/x-protobuf"
                if headers.get("transfer-encoding") == "chunked":  # as Envoy does
                    body = await _chunks(reader)
                else:
                    body = await reader.readexactly(int(headers["content-length"]))
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                await self._take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
                    + f"Content-Length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _take(self, request: ExportTraceServiceRequest) -> None:
        async with self._news:
            for resource in request.resource_spans:
                service = _attributes(resource.resource)["service.name"]
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    hop = Hop(
                        service,
                        span.kind,
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.status.code,
                        _attributes(span),
                    )
                    self._hops.setdefault(hop.trace_id, []).append(hop)
            self._news.notify_all()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


def _attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@asynccontextmanager
async def collector(made: Collector | None = None) -> AsyncIterator[Collector]:
    """A collector on a free port."""
    made = made or Collector()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
