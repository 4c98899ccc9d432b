"""A real gateway before real gRPC servers whose handlers a test chooses, and a plain HTTP client."""

import asyncio
import contextlib
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waymesh.agent.v1 import agent_registry_service_pb2_grpc, agent_service_pb2_grpc
from waymesh.eta.v1 import eta_service_pb2_grpc, gps_stream_pb2
from waymesh.feedback.v1 import feedback_service_pb2_grpc
from waymesh.route.v1 import route_service_pb2_grpc

from services.gateway.server import Gateway
from services.gateway.settings import GatewaySettings
from services.mesh.server import GrpcServer
from services.mesh.settings import load
from services.mesh.telemetry import Telemetry
from services.mesh.tls.files import Files
from services.mesh.tls.live import LiveTls
from tests.certificates import Paths

KEY = "wm_first"
JSON = "application/json"
WITH_KEY = {"X-API-Key": KEY}
GPS = {
    "driver_id": "driver_123",
    "order_id": "order_456",
    "location": {"lat": -23.5505, "lon": -46.6333},
    "speed_kph": 25.3,
    "trip_stage": "to_pickup",
    "traffic_density": "moderate",
    "zone_type": "business_district",
    "timestamp": "2024-08-28T10:30:00Z",
    "anomaly_flags": [],
}
Handler = Callable[[Any, Any], Awaitable[Any]]


@dataclass
class Reply:
    """What came back. Header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, which it says it is."""
        assert self.headers["content-type"] == JSON
        return json.loads(self.body)


class Client:
    """One keep-alive connection; a new one where the server has closed it between requests."""

    def __init__(self, port: int, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self._host = self.sent_host = host
        self._port = port
        self._tls = tls
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.connections = 0

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The open connection."""
        if self._reader is None or self._writer is None or self._reader.at_eof():
            await self.close()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
            self.connections += 1
        return self._reader, self._writer

    async def close(self) -> None:
        """Hangs up."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.close()
            if self._tls is not None:  # both ends say farewell first, which a loop that ends would cut short
                with contextlib.suppress(OSError, TimeoutError):
                    await asyncio.wait_for(writer.wait_closed(), 10)

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        """A request, without waiting for the answer."""
        _, writer = await self.connect()
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.sent_host}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        if (body or method in ("POST", "PUT", "PATCH")) and "Transfer-Encoding" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await writer.drain()

    async def receive(self, *, head: bool = False) -> Reply:
        """The next answer."""
        reader, _ = await self.connect()
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in raw[1:] if line)
        }
        length = 0 if head else int(headers.get("content-length", 0))
        reply = Reply(int(raw[0].split()[1]), headers, await reader.readexactly(length))
        if headers.get("connection") == "close":
            assert await reader.read() == b""
            await self.close()
        return reply

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = {}) -> Reply:
        """One request and its answer."""
        await self.send(method, path, body, headers)
        return await self.receive(head=method == "HEAD")

    async def post(
        self, path: str, body: object, *, key: str | None = KEY, headers: Mapping[str, str] = {}
    ) -> Reply:
        """JSON, with a key."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": JSON, **({} if key is None else {"X-API-Key": key}), **headers}
        return await self.ask("POST", path, raw, sent)

    async def task(self, task: str, parameters: object, *, path: str = "/execute", **options: Any) -> Reply:
        """One task."""
        more = {"timeout_ms": options.pop("timeout_ms")} if "timeout_ms" in options else {}
        return await self.post(path, {"task": task, "parameters": parameters, **more}, **options)


async def took_in(_request: Any, _context: Any) -> Any:
    """The simplest answer to ReportGps."""
    return gps_stream_pb2.ReportGpsResponse(event_id="event_1")


class Eta(eta_service_pb2_grpc.EtaServiceServicer):  # type: ignore[misc]
    """What the test says, by the name of the RPC."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        for name, handler in {"ReportGps": took_in, **handlers}.items():
            setattr(self, name, handler)


class Route(route_service_pb2_grpc.RouteServiceServicer):  # type: ignore[misc]
    """The same for route."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)


class Feedback(feedback_service_pb2_grpc.FeedbackServiceServicer):  # type: ignore[misc]
    """The same for feedback."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)


class Agents(agent_service_pb2_grpc.AgentServiceServicer):  # type: ignore[misc]
    """The same for runs of agents."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)


class Registry(agent_registry_service_pb2_grpc.AgentRegistryServiceServicer):  # type: ignore[misc]
    """The same for agents themselves."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        for name, handler in handlers.items():
            setattr(self, name, handler)


@dataclass
class Rig:
    """A gateway and what stands behind it."""

    gateway: Gateway
    eta: GrpcServer
    exporter: InMemorySpanExporter
    stack: AsyncExitStack
    clients: list[Client] = field(default_factory=list)

    def client(self, listener: str = "gateway", tls: ssl.SSLContext | None = None) -> Client:
        """A client of a listener; it hangs up at the end of the test."""
        found = {"gateway": self.gateway.public, "admin": self.gateway.admin, **self.gateway.runtimes}[
            listener
        ]
        assert found is not None
        client = Client(found.port, tls=tls)
        self.clients.append(client)
        return client

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended."""
        return list(self.exporter.get_finished_spans())

    def metric(self, name: str, **labels: str) -> float:
        """A sample of the gateway's metrics; 0 if there is none."""
        return self.gateway.telemetry.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def gateway(
    eta: Mapping[str, Handler] = {},
    *,
    route: Mapping[str, Handler] | None = None,
    agents: Mapping[str, Any] | None = None,
    feedback: Mapping[str, Handler] | None = None,
    tracing: bool = True,
    behind: Paths | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A gateway with these handlers behind it; `settings` by field name. Without `tracing`, no exporter.

    `behind`: what the servers behind it show, where the settings let the gateway speak TLS.
    """
    tls = None if behind is None else LiveTls(Files(behind.certificate, behind.key, behind.authorities))
    exporter = InMemorySpanExporter()
    processors = [SimpleSpanProcessor(exporter)] if tracing else []
    async with AsyncExitStack() as stack:

        async def serve(name: str, *servicers: tuple[Any, object]) -> GrpcServer:
            telemetry = Telemetry.create(name, span_processors=processors)
            server = GrpcServer(
                name,
                host="127.0.0.1",
                port=0,
                admin_port=None,
                telemetry=telemetry,
                grace_s=1.0,
                tls=tls,
            )
            for add, servicer in servicers:
                server.add(add, servicer)
            await server.start()
            stack.push_async_callback(server.stop)
            return server

        eta_server = await serve("eta", (eta_service_pb2_grpc.add_EtaServiceServicer_to_server, Eta(eta)))
        targets = {"eta_target": f"127.0.0.1:{eta_server.port}"}
        if route is not None:
            route_server = await serve(
                "route", (route_service_pb2_grpc.add_RouteServiceServicer_to_server, Route(route))
            )
            targets["route_target"] = f"127.0.0.1:{route_server.port}"
        else:
            targets["route_target"] = "127.0.0.1:1"  # nobody listens there
        # Signals are for no mesh that may run here besides.
        targets["feedback_target"] = "127.0.0.1:1"
        if feedback is not None:
            feedback_server = await serve(
                "feedback",
                (feedback_service_pb2_grpc.add_FeedbackServiceServicer_to_server, Feedback(feedback)),
            )
            targets["feedback_target"] = f"127.0.0.1:{feedback_server.port}"
        if agents is not None:
            served = await serve(
                "agents",
                (agent_service_pb2_grpc.add_AgentServiceServicer_to_server, Agents(agents)),
                (
                    agent_registry_service_pb2_grpc.add_AgentRegistryServiceServicer_to_server,
                    Registry(agents),
                ),
            )
            targets["agents_target"] = f"127.0.0.1:{served.port}"
        else:
            targets["agents_target"] = "127.0.0.1:1"
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        options = {
            "port": 0,
            "agent_demo_port": 0,
            "agent_custom_port": 0,
            "data_dir": Path(folder),
            "database_url": None,
            "api_key": KEY,
            "drain_s": 0.0,
            **targets,
            **settings,
        }
        telemetry = Telemetry.create("gateway", span_processors=processors)
        made = Gateway(load(GatewaySettings, **options), telemetry)
        life = await made.start()
        stack.push_async_callback(life.stop)
        rig = Rig(made, eta_server, exporter, stack)
        try:
            yield rig
        finally:
            for client in rig.clients:
                await client.close()


async def ask(rig: Rig, method: str, path: str, body: object = None, **headers: str) -> Reply:
    """A request with a key, and with JSON if there is a body."""
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {**WITH_KEY, **({"Content-Type": JSON} if raw else {}), **headers}
    return await rig.client().ask(method, path, raw, sent)
