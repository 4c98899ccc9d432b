"""What TLS costs a unary call, by each of the mesh's two transports.

  grpc.aio         a stub of a plain channel
  grpc.aio-tls     the same with certificates at both ends
  wire             the unary client of services/mesh/wire, which the gateway uses
  wire-tls         the same with certificates at both ends

The call is ReportGps with a courier's fix, the server has the mesh's whole chain, and the handler answers at
once. Client and servers are processes of their own on uvloop. One call at a time, then 32. Rounds are
interleaved, each time from another way first. Prints the medians of calls a second and of the client's CPU
time of a call, then the medians of the rounds' ratios: of wire to grpc.aio, both with TLS, and of each to
itself without.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from waymesh.eta.v1.gps_stream_pb2 import ReportGpsRequest, ReportGpsResponse

from bench._command import command
from bench._mesh import say
from bench._servers import Servers
from bench._tls_service import certificates
from bench.grpc_traps import _AT_ONCE, _PATH, Call, Way, _request, serving
from services.mesh.client import ClientFactory
from services.mesh.telemetry import Telemetry
from tests.certificates import Authority
from tools.ports import free_ports

_TIMEOUT_S = 10.0
_WAYS = ("grpc.aio", "grpc.aio-tls", "wire", "wire-tls")
# What is told over what.
_RATIOS = (("wire-tls", "grpc.aio-tls"), ("grpc.aio-tls", "grpc.aio"), ("wire-tls", "wire"))


def _calls(factory: ClientFactory, target: str) -> dict[str, Call]:
    """By both transports, without links."""
    channel, request = factory.channel(target), _request()
    codec = (ReportGpsRequest.SerializeToString, ReportGpsResponse.FromString)
    core: Any = channel.bare.unary_unary(_PATH, *codec)
    wire = channel.quick_unary(_PATH, *codec)
    return {
        "grpc.aio": lambda: core(request, timeout=_TIMEOUT_S),
        "wire": lambda: wire(request, timeout=_TIMEOUT_S),
    }


async def measure(rounds: int, calls: int, plain: str, encrypted: str, folder: Path) -> dict[str, Any]:
    async with contextlib.AsyncExitStack() as stack:
        made: dict[str, Call] = {}
        for target, tls, suffix in ((plain, None, ""), (encrypted, certificates(folder), "-tls")):
            factory = ClientFactory("bench", telemetry=Telemetry.create("bench"), tls=tls)
            stack.push_async_callback(factory.close)
            made |= {name + suffix: call for name, call in _calls(factory, target).items()}
        ways = {name: Way(name, made[name], os.getpid()) for name in _WAYS}
        for way in ways.values():  # warm
            for at_once in _AT_ONCE:
                await way.run(max(1, calls // 5), at_once)
            way.per_s.clear()
            way.cpu_us.clear()
        for one in range(rounds):
            for at_once in _AT_ONCE:
                turn = one % len(ways)
                in_turn = list(ways.values())
                for way in in_turn[turn:] + in_turn[:turn]:
                    await way.run(calls, at_once)
            say(f"round {one + 1} of {rounds}")
        return {
            "rounds": rounds,
            "calls": calls,
            "ways": {name: way.figures() for name, way in ways.items()},
            "ratios": {f"{one}/{other}": ways[one].ratios(ways[other]) for one, other in _RATIOS},
        }


async def run(rounds: int, calls: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as started:
        folder, authority = Path(name), Authority()
        authority.issue("eta").write(folder / "eta")
        authority.issue("route").write(folder / "route")
        plain, encrypted = free_ports(2)
        started.start("plain", sys.executable, "-m", "bench._gateway_service", str(plain))
        started.start("tls", sys.executable, "-m", "bench._tls_service", str(encrypted), str(folder / "eta"))
        await serving(f"127.0.0.1:{plain}")
        return await measure(rounds, calls, f"127.0.0.1:{plain}", f"127.0.0.1:{encrypted}", folder / "route")


def show(result: dict[str, Any]) -> None:
    """As lines for people."""
    for name, by_count in result["ways"].items():
        for at_once, figures in by_count.items():
            print(
                f"{name:13} {at_once:>2} at once: {figures['calls_per_s']:6.0f} calls/s, "
                f"{figures['cpu_us_per_call']:6.1f} µs CPU a call"
            )
    for name, by_count in result["ratios"].items():
        for at_once, figures in by_count.items():
            print(
                f"{name:26} {at_once:>2} at once: {figures['calls_per_s']:.2f} × the calls/s, "
                f"{figures['cpu_us_per_call']:.2f} × the CPU"
            )


def main() -> None:
    parser = command("tls", __doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument("--calls", type=int, default=3000, help="calls of one way in a round")
    arguments = parser.parse_args()
    result = uvloop.run(run(max(1, arguments.rounds), max(100, arguments.calls)))
    show(result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
