"""Real servers and clients of the mesh in one loop, for tests that need a network."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, eta_service_pb2_grpc, gps_stream_pb2

from services.mesh import errors
from services.mesh.client import ClientFactory
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from services.mesh.tls.live import LiveTls

Request = eta_service_pb2.PredictEtaRequest
Response = eta_service_pb2.PredictEtaResponse
Stub = eta_service_pb2_grpc.EtaServiceStub
SERVICE = "waymesh.eta.v1.EtaService"
PREDICT = f"/{SERVICE}/PredictEta"
# Only against hangs: nothing is timed.
HANG_S = 20.0

Predict = Callable[[Request, Any], Awaitable[Response]]


def request(order_id: str = "order_1") -> Request:
    """A request that keeps the rules."""
    return Request(query=eta_pb2.EtaQuery(order_id=order_id))


async def answer(_request: Request, _context: Any) -> Response:
    """The simplest handler."""
    return Response()


def error_of(code: grpc.StatusCode) -> Predict:
    """A handler that fails with this code."""

    async def predict(_request: Request, _context: Any) -> Response:
        raise errors.error_class(code)("as the test says")

    return predict


class Eta(eta_service_pb2_grpc.EtaServiceServicer):
    """PredictEta, which may be retried, does what the test says; WatchEta and StreamGps are what they are."""

    def __init__(self, predict: Predict = answer, watch: Callable[..., Any] | None = None) -> None:
        self._predict = predict
        self._watch = watch

    async def PredictEta(self, request: Request, context: Any) -> Response:
        return await self._predict(request, context)

    async def WatchEta(self, request: Any, context: Any) -> AsyncIterator[Any]:
        assert self._watch is not None
        async for response in self._watch(request, context):
            yield response

    async def StreamGps(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        async for batch in request_iterator:
            yield gps_stream_pb2.StreamGpsResponse(accepted=len(batch.events))


class Mesh:
    """Servers and clients that end with the test."""

    # What servers and clients show where a test does not say; None: all is plain.
    shows: ClassVar[tuple[LiveTls, LiveTls] | None] = None

    def __init__(self, stack: AsyncExitStack, spans: InMemorySpanExporter | None) -> None:
        self._stack = stack
        self._exporter = spans
        processors = [] if spans is None else [SimpleSpanProcessor(spans)]
        self.telemetry = Telemetry.create("eta", span_processors=processors)

    async def serve(self, servicer: Eta | Predict = answer, **options: Any) -> GrpcServer:
        """A started server."""
        options = {"host": "127.0.0.1", "port": 0, "admin_port": None, "grace_s": 1.0} | options
        checks = options.pop("checks", {})
        if self.shows is not None:
            options.setdefault("tls", self.shows[0])
        server = GrpcServer("eta", telemetry=self.telemetry, **options)
        server.add(
            eta_service_pb2_grpc.add_EtaServiceServicer_to_server,
            servicer if isinstance(servicer, Eta) else Eta(servicer),
        )
        for name, probe in checks.items():
            server.check(name, probe)
        await server.start()
        self._stack.push_async_callback(server.stop)
        return server

    def client(self, **options: Any) -> ClientFactory:
        """A factory of stubs."""
        if self.shows is not None:
            options.setdefault("tls", self.shows[1])
        factory = ClientFactory("test", telemetry=self.telemetry, **options)
        self._stack.push_async_callback(factory.close)
        return factory

    def stub(self, server: GrpcServer, **options: Any) -> Stub:
        """A stub with a factory of its own."""
        return self.client(**options).stub(Stub, address(server))

    async def hops(self, last: Predict, *, each: Callable[[], object] = lambda: None) -> Stub:
        """A stub of the first of three servers: each calls the next, and `each` within the call."""

        async def end(message: Request, context: Any) -> Response:
            each()
            return await last(message, context)

        stub = self.stub(await self.serve(end))
        for _ in range(2):
            stub = self.stub(await self.serve(_onward(stub, each)))
        return stub

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended so far."""
        assert self._exporter is not None
        return list(self._exporter.get_finished_spans())


def address(server: GrpcServer) -> str:
    """Where the server listens."""
    return f"127.0.0.1:{server.port}"


def _onward(stub: Stub, each: Callable[[], object]) -> Predict:
    async def predict(message: Request, _context: Any) -> Response:
        each()
        return await stub.PredictEta(message)

    return predict


@asynccontextmanager
async def mesh(*, tracing: bool = False) -> AsyncIterator[Mesh]:
    """A mesh that ends with the block."""
    async with AsyncExitStack() as stack:
        yield Mesh(stack, InMemorySpanExporter() if tracing else None)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that happens in another task; the bound is against hangs."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.005)


# Programs for processes of their own.

FROZEN_CALLER = """
import sys, grpc
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, eta_service_pb2_grpc
sys.stdin.readline()
stub = eta_service_pb2_grpc.EtaServiceStub(grpc.insecure_channel(sys.argv[1]))
stub.PredictEta(eta_service_pb2.PredictEtaRequest(query=eta_pb2.EtaQuery(order_id="o")), timeout=0.5)
"""

ONE_LOOP = """
import asyncio
from services.mesh.client import ClientFactory
from services.mesh.lifecycle import run_process
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from waymesh.eta.v1 import eta_pb2, eta_service_pb2, eta_service_pb2_grpc

class Eta(eta_service_pb2_grpc.EtaServiceServicer):
    async def PredictEta(self, request, context):
        return eta_service_pb2.PredictEtaResponse()

async def main():
    telemetry = Telemetry.create("eta")
    server = GrpcServer("eta", host="127.0.0.1", port=0, admin_port=0, telemetry=telemetry)
    server.add(eta_service_pb2_grpc.add_EtaServiceServicer_to_server, Eta())
    await server.start()
    factory = ClientFactory("test", telemetry=telemetry)
    stub = factory.stub(eta_service_pb2_grpc.EtaServiceStub, f"127.0.0.1:{server.port}")
    asks = eta_service_pb2.PredictEtaRequest(query=eta_pb2.EtaQuery(order_id="o"))
    await asyncio.gather(*(stub.PredictEta(asks) for _ in range(200)))
    await factory.close()
    await server.drain()
    await server.stop()
    await telemetry.shutdown()

run_process(main)
"""
