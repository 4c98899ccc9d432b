"""What a unary gRPC call costs in Python, and what interceptors and the mesh's own chains add to it.

The client's side, all on the same bare server:

  grpc.aio         a stub of a plain channel
  interceptors-1   the same with one client interceptor that does nothing
  interceptors-7   with seven of them, nearly as many as the chain has links
  chain            the mesh's channel over grpc.aio: deadline, breaker, retries, trace, metrics, errors
  wire             the unary client of services/mesh/wire, which the gateway uses, without the chain

The server's side, all asked by the plain channel:

  bare             a grpc.aio server
  interceptor      the same with one interceptor around the handler that does nothing
  chain            the mesh's server: request id, principal, trace, metrics, log, errors, deadline, validation

The call is ReportGps with a courier's fix; the handler answers at once. Client and servers are processes of
their own on uvloop. One call at a time, then 32. Rounds are interleaved, each time from another side first.
Prints the medians of calls a second and of the CPU time of a call in the process whose side it is (all its
threads), then the medians of the rounds' ratios to the first of each side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import psutil
import uvloop
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1 import eta_service_pb2_grpc
from waymesh.eta.v1.gps_stream_pb2 import ReportGpsRequest, ReportGpsResponse
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.location_pb2 import Location

from bench._command import command
from bench._mesh import say
from bench._servers import Servers as Processes
from bench._unary_service import KINDS
from services.mesh import transport
from services.mesh.client import ClientFactory
from services.mesh.telemetry import Telemetry
from tools.ports import free_ports

_PATH: Final = "/waymesh.eta.v1.EtaService/ReportGps"
_AT_ONCE: Final = (1, 32)
_READY_S: Final = 30.0
_TIMEOUT_S: Final = 10.0

Call = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and its process."""

    target: str
    pid: int


Servers = Mapping[str, Server]


class Nothing(grpc.aio.UnaryUnaryClientInterceptor):
    """Hands the call on."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


@dataclass(slots=True)
class Way:
    """One way of making a call, whose CPU time is that of process `pid`; figures by calls at once."""

    name: str
    call: Call
    pid: int
    per_s: dict[int, list[float]] = field(default_factory=dict)
    cpu_us: dict[int, list[float]] = field(default_factory=dict)

    async def run(self, calls: int, at_once: int) -> None:
        """Makes the calls and keeps what they took."""
        waiting = iter(range(calls))

        async def caller() -> None:
            for _ in waiting:
                await self.call()

        spent_s, began = _cpu_s(self.pid), time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(caller())
        took_s = time.perf_counter() - began
        self.per_s.setdefault(at_once, []).append(calls / took_s)
        self.cpu_us.setdefault(at_once, []).append((_cpu_s(self.pid) - spent_s) / calls * 1e6)

    def figures(self) -> dict[str, dict[str, float]]:
        return {
            f"{at_once}": {
                "calls_per_s": round(statistics.median(self.per_s[at_once])),
                "cpu_us_per_call": round(statistics.median(self.cpu_us[at_once]), 1),
            }
            for at_once in self.per_s
        }

    def ratios(self, first: Way) -> dict[str, dict[str, float]]:
        """Medians of the rounds' ratios to another way."""
        return {
            f"{at_once}": {
                "calls_per_s": _ratio(self.per_s[at_once], first.per_s[at_once]),
                "cpu_us_per_call": _ratio(self.cpu_us[at_once], first.cpu_us[at_once]),
            }
            for at_once in self.per_s
        }


def _cpu_s(pid: int) -> float:
    """CPU time of a process. On Linux to the nanosecond; elsewhere in ticks, a hundred calls long."""
    if platform.system() == "Linux":
        # The number of its clock is made as clock_getcpuclockid(3) makes it.
        return time.clock_gettime((~pid << 3) | 2)
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def _request() -> ReportGpsRequest:
    event = gps_pb2.GpsEvent(
        driver_id="driver_123",
        order_id="order_456",
        location=Location(lat=-23.5505, lon=-46.6333),
        speed_kph=25.3,
        trip_stage=gps_pb2.TRIP_STAGE_TO_PICKUP,
        traffic_density=gps_pb2.TRAFFIC_DENSITY_MODERATE,
        zone_type=gps_pb2.ZONE_TYPE_BUSINESS_DISTRICT,
        timestamp=Timestamp(seconds=1_724_841_000),
    )
    return ReportGpsRequest(event=event)


@contextlib.asynccontextmanager
async def ways(servers: Servers) -> AsyncIterator[dict[str, list[Way]]]:
    """Both sides; the plain one first in each."""
    request, own = _request(), os.getpid()
    bare = servers["bare"].target
    async with contextlib.AsyncExitStack() as stack:

        async def plain(target: str, interceptors: int = 0) -> Call:
            channel = await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    target,
                    options=transport.client_options(64),
                    interceptors=[Nothing() for _ in range(interceptors)],
                )
            )
            stub: Any = eta_service_pb2_grpc.EtaServiceStub(channel)
            return lambda: stub.ReportGps(request, timeout=_TIMEOUT_S)

        factory = ClientFactory("bench", telemetry=Telemetry.create("bench"))
        stack.push_async_callback(factory.close)
        chained: Any = factory.stub(eta_service_pb2_grpc.EtaServiceStub, bare)
        wire = factory.channel(bare).quick_unary(
            _PATH, ReportGpsRequest.SerializeToString, ReportGpsResponse.FromString
        )
        client = {
            "grpc.aio": await plain(bare),
            "interceptors-1": await plain(bare, 1),
            "interceptors-7": await plain(bare, 7),
            "chain": lambda: chained.ReportGps(request, timeout=_TIMEOUT_S),
            "wire": lambda: wire(request, timeout=_TIMEOUT_S),
        }
        yield {
            "client": [Way(name, call, own) for name, call in client.items()],
            "server": [Way(kind, await plain(server.target), server.pid) for kind, server in servers.items()],
        }


async def measure(rounds: int, calls: int, servers: Servers) -> dict[str, Any]:
    async with ways(servers) as sides:
        everything = [way for side in sides.values() for way in side]
        for way in everything:  # warm
            for at_once in _AT_ONCE:
                await way.run(max(1, calls // 5), at_once)
            way.per_s.clear()
            way.cpu_us.clear()
        for one in range(rounds):
            for at_once in _AT_ONCE:
                turn = one % len(everything)
                for way in everything[turn:] + everything[:turn]:
                    await way.run(calls, at_once)
            say(f"round {one + 1} of {rounds}")
        result: dict[str, Any] = {"rounds": rounds, "calls": calls}
        for side, (first, *others) in sides.items():
            result[side] = {way.name: way.figures() for way in (first, *others)}
            result[f"{side}_ratios"] = {way.name: way.ratios(first) for way in others}
    return result


async def serving(target: str) -> None:
    """Waits for a server."""
    async with (
        asyncio.timeout(_READY_S),
        grpc.aio.insecure_channel(target, options=transport.client_options(64)) as channel,
    ):
        await channel.channel_ready()


def show(result: Mapping[str, Any]) -> None:
    """As lines for people."""
    for side in ("client", "server"):
        for name, by_count in result[side].items():
            for at_once, figures in by_count.items():
                against = result[f"{side}_ratios"].get(name, {}).get(at_once)
                ratio = f", {against['cpu_us_per_call']:.2f} × the CPU" if against else ""
                print(
                    f"{side}  {name:15} {at_once:>2} at once: {figures['calls_per_s']:6.0f} calls/s, "
                    f"{figures['cpu_us_per_call']:6.1f} µs CPU a call{ratio}"
                )


async def run(rounds: int, calls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, Processes(Path(name)) as started:
        servers = {}
        for kind, port in zip(KINDS, free_ports(len(KINDS)), strict=True):
            process = started.start(kind, sys.executable, "-m", "bench._unary_service", kind, str(port))
            servers[kind] = Server(f"127.0.0.1:{port}", process.pid)
        await asyncio.gather(*(serving(server.target) for server in servers.values()))
        return await measure(rounds, calls, servers)


def main() -> None:
    parser = command("grpc_traps", __doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--calls", type=int, default=3000, help="calls of one way in a round")
    arguments = parser.parse_args()
    result = uvloop.run(run(max(1, arguments.rounds), max(100, arguments.calls)))
    show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
