"""Gateway, route and eta as processes that export their spans; instead of eta an engine of the test's."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from gateway_rig import KEY, Client, Reply
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otlp_collector import Collector, Hop, collector
from waymesh.eta.v1 import eta_pb2, eta_service_pb2
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceServicer, add_EtaServiceServicer_to_server

from services.mesh import errors
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from tools.ports import free_ports

# Spans leave at once: a test waits for them.
_EXPORT_EVERY_MS = 20
_GUARD_S = 120.0


class LastHop(EtaServiceServicer):
    """An engine that answers, fails or hangs, as the test says."""

    def __init__(self) -> None:
        self.fails_with: errors.MeshError | None = None
        self.hangs = False
        self.reached = asyncio.Event()
        self.left_at: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def PredictEta(self, request: Any, context: Any) -> eta_service_pb2.PredictEtaResponse:
        await self._act()
        return eta_service_pb2.PredictEtaResponse(
            prediction=eta_pb2.EtaPrediction(order_id=request.query.order_id)
        )

    async def BatchPredictEta(self, request: Any, context: Any) -> eta_service_pb2.BatchPredictEtaResponse:
        await self._act()
        prediction = eta_pb2.EtaPrediction(pickup_eta_minutes=5, delivery_eta_minutes=15)
        result = eta_service_pb2.BatchPredictEtaResult(prediction=prediction)
        return eta_service_pb2.BatchPredictEtaResponse(results=[result] * len(request.queries))

    async def _act(self) -> None:
        self.reached.set()
        if self.fails_with is not None:
            raise self.fails_with
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.left_at.set_result(time.monotonic())
                raise

    def again(self) -> None:
        """As it was at first."""
        self.fails_with, self.hangs = None, False
        self.reached.clear()
        self.left_at = asyncio.get_running_loop().create_future()


@dataclass
class Asked:
    """A request through the gateway: its trace, its id, and what came back."""

    trace_id: str
    request_id: str
    reply: Reply


@dataclass
class ThreeHops:
    """What a test has in its hands."""

    collector: Collector
    gateway_port: int
    eta: LastHop
    asked: int = 0
    clients: list[Client] = field(default_factory=list)

    def headers(self) -> dict[str, str]:
        """A place in a trace and a request id of their own."""
        self.asked += 1
        return {
            "traceparent": f"00-{self.asked:032x}-{self.asked:016x}-01",
            "X-Request-Id": f"request-{self.asked}",
        }

    def client(self) -> Client:
        client = Client(self.gateway_port)
        self.clients.append(client)
        return client

    async def ask(self, task: str, parameters: object = None, **options: Any) -> Asked:
        """One task."""
        headers = self.headers()
        reply = await self.client().task(task, parameters or {}, headers=headers, **options)
        return Asked(f"{self.asked:032x}", headers["X-Request-Id"], reply)

    async def trace(self, asked: Asked, *places: str) -> list[Hop]:
        """The spans of a request, which are in these places."""
        hops = await self.collector.trace(asked.trace_id, len(places))
        assert [hop.place for hop in hops] == list(places)
        # The caller's own span is the parent of the first.
        assert hops[0].parent == asked.trace_id[16:]
        assert {hop.attributes["waymesh.request_id"] for hop in hops} == {asked.request_id}
        return hops


@asynccontextmanager
async def three_hops(
    database: str, folder: Path, *, real_eta: bool = False, **more: str
) -> AsyncIterator[ThreeHops]:
    """The mesh, ready; route ticks only when it is asked to. `more` goes to every service's environment."""
    async with AsyncExitStack() as stack:
        spans = await stack.enter_async_context(collector())
        last = LastHop()
        names = ("gateway", "demo", "custom", "route", "eta")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": str(_EXPORT_EVERY_MS),
            "WAYMESH_DATA_DIR": str(folder),
            "DATABASE_URL": database,
            "FASTAPI_API_KEY": KEY,
            "ENABLE_OUTCOME_LOGGING": "false",
            "WAYMESH_DRAIN_S": "0",
            "PORT": str(ports["gateway"]),
            "WAYMESH_AGENT_DEMO_PORT": str(ports["demo"]),
            "WAYMESH_AGENT_CUSTOM_PORT": str(ports["custom"]),
            "WAYMESH_ROUTE_PORT": str(ports["route"]),
            "WAYMESH_ETA_PORT": str(ports["eta"]),
            "WAYMESH_ROUTE_ADMIN_PORT": "0",
            "WAYMESH_ETA_ADMIN_PORT": "0",
            "WAYMESH_ROUTE_TARGET": f"127.0.0.1:{ports['route']}",
            "WAYMESH_ETA_TARGET": f"127.0.0.1:{ports['eta']}",
            "WAYMESH_FEEDBACK_TARGET": "127.0.0.1:1",  # nobody listens there
            "WAYMESH_ALLOCATION_TICK_S": "3600",
            "WAYMESH_ALLOCATION_GAP_S": "3600",
            **more,
        }
        if not real_eta:
            await _serve(stack, last, ports["eta"], spans.endpoint)
        names = ("gateway", "route", "eta") if real_eta else ("gateway", "route")
        await asyncio.gather(*(_run(stack, name, environ) for name in names))
        made = ThreeHops(spans, ports["gateway"], last)
        try:
            yield made
        finally:
            for client in made.clients:
                await client.close()


async def _serve(stack: AsyncExitStack, last: LastHop, port: int, endpoint: str) -> None:
    """The engine of the test behind the chain of the mesh."""
    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")
    processor = BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_EVERY_MS)
    telemetry = Telemetry.create("eta", span_processors=[processor])
    stack.push_async_callback(telemetry.shutdown)
    server = GrpcServer("eta", host="127.0.0.1", port=port, admin_port=None, telemetry=telemetry)
    server.add(add_EtaServiceServicer_to_server, last)
    await server.start()
    stack.push_async_callback(server.stop)


async def _run(stack: AsyncExitStack, name: str, environ: dict[str, str]) -> None:
    """A service's process, once it is ready; it ends with the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"services.{name}",
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    stack.push_async_callback(_end, process)
    assert process.stderr is not None
    said = []
    async with asyncio.timeout(_GUARD_S):
        while line := await process.stderr.readline():
            said.append(line.decode())
            if json.loads(line)["message"] == f"{name} is ready":
                break
        else:
            raise AssertionError(f"{name} ended: {''.join(said)}")
    # What it says later must not fill the pipe.
    reading = asyncio.create_task(process.stderr.read())
    stack.callback(reading.cancel)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        async with asyncio.timeout(_GUARD_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def refusal(code: grpc.StatusCode) -> errors.MeshError:
    """An error of this code that nobody is to try again before the test is over."""
    return errors.error_class(code)("as the test says", retry_after_s=60.0)
