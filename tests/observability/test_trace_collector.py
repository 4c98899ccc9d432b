"""The collector of deploy/observability itself, with what our own telemetry sends it."""

import asyncio
import contextlib
import os
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import yaml
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import Telemetry
from services.mesh.trace import TraceContext
from tests.integration.otlp_collector import Collector, Hop, collector
from tests.observability.promtool import needed
from tools.observability import derived
from tools.ports import free_ports

CONFIG = derived.FOLDER / "collector" / "otel-collector.yaml"
GUARD_S = 60.0
# Of so many traces with nothing to say, 5% are kept: none, or all of them, is as good as impossible.
ORDINARY = 400


class Receiver(Collector):
    """Where the kept traces go."""

    def hops(self, trace_id: str) -> list[Hop]:
        return list(self._hops.get(trace_id, ()))

    def traces(self) -> set[str]:
        return set(self._hops)


class Chain:
    """Gateway, route and eta, as far as their spans go."""

    def __init__(self, endpoint: str) -> None:
        settings = load(MeshSettings, otel_exporter_otlp_endpoint=endpoint)
        self.services = [Telemetry.create(name, settings) for name in ("gateway", "route", "eta")]

    def call(
        self, last: Status | None = None, attributes: Mapping[str, str | bool] = MappingProxyType({})
    ) -> str:
        """Each calls the next; the last ends as told. The trace's id."""
        parent: TraceContext | None = None
        spans = []
        for telemetry in self.services:
            assert telemetry.spans is not None
            span = telemetry.spans.begin("waymesh/Call", SpanKind.SERVER, {}, parent)
            parent = span.here
            spans.append(span)
        spans[-1].attributes.update(attributes)
        for span in reversed(spans):
            span.end(last if last is not None and span is spans[-1] else Status(StatusCode.OK))
        return spans[0].here.parent[3:35]

    async def send(self) -> None:
        for telemetry in self.services:
            await telemetry.shutdown(20.0)


def _program() -> Path:
    return needed("otelcol", "collector", "WAYMESH_REQUIRE_COLLECTOR")


@contextlib.contextmanager
def _collecting(folder: Path, receiver: str) -> Iterator[tuple[str, str]]:
    """Endpoint and health address of a collector that is ready; only its ports are others."""
    http, grpc, health, metrics = free_ports(4)
    text = CONFIG.read_text()
    for old, new in ((4318, http), (4317, grpc), (13133, health)):
        text = text.replace(f":{old}", f":{new}")
    text = text.replace("port: 8888", f"port: {metrics}")
    (folder / "collector.yaml").write_text(text)
    environ = {
        **os.environ,
        "OTEL_LISTEN_HOST": "127.0.0.1",
        "TRACES_ENDPOINT": receiver,
        "OTEL_DECISION_WAIT": "2s",
    }
    with (folder / "collector.log").open("wb") as log:
        process = subprocess.Popen(
            [_program(), "--config", folder / "collector.yaml"], env=environ, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + GUARD_S
        while not _well(f"http://127.0.0.1:{health}"):
            assert process.poll() is None, (folder / "collector.log").read_text()
            assert time.monotonic() < deadline, (folder / "collector.log").read_text()
            time.sleep(0.05)
        yield f"http://127.0.0.1:{http}", f"http://127.0.0.1:{metrics}/metrics"
    finally:
        process.terminate()
        process.wait()


def _well(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    async with collector(made):
        yield made


async def test_failed_and_degraded_traces_are_kept_whole_and_ordinary_ones_thinned(
    receiver: Receiver, tmp_path: Path
) -> None:
    with _collecting(tmp_path, receiver.endpoint) as (endpoint, _):
        chain = Chain(endpoint)
        ordinary = {chain.call() for _ in range(ORDINARY)}
        failed = chain.call(Status(StatusCode.ERROR, "INTERNAL: an internal error"))
        degraded = chain.call(attributes={"waymesh.degraded": True})
        await chain.send()
        for trace_id in (failed, degraded):
            hops = await receiver.trace(trace_id, 3)
            assert [hop.service for hop in hops] == ["gateway", "route", "eta"]
        async with asyncio.timeout(GUARD_S):
            while not (kept := ordinary & receiver.traces()):
                await asyncio.sleep(0.05)
    # The collector has ended: what it keeps is sent.
    kept = ordinary & receiver.traces()
    assert 0 < len(kept) < ORDINARY // 4
    assert {len(receiver.hops(trace_id)) for trace_id in kept} == {3}


async def test_secrets_that_others_record_do_not_get_through(receiver: Receiver, tmp_path: Path) -> None:
    with _collecting(tmp_path, receiver.endpoint) as (endpoint, _):
        chain = Chain(endpoint)
        secrets = {
            "http.request.header.authorization": "Bearer canary",
            "http.request.header.x-api-key": "canary",
            "db.password": "canary",
            "user_agent": "canary",
            "guid:x-request-id": "canary",
            "http.url": "https://x.example/wm_canary-0123456789abcdefghijkl?x=sk-canary-0123456789",
        }
        trace_id = chain.call(Status(StatusCode.ERROR), {**secrets, "waymesh.task": "predict_eta"})
        await chain.send()
        hops = await receiver.trace(trace_id, 3)
    assert "canary" not in repr(hops)
    assert hops[-1].attributes["waymesh.task"] == "predict_eta"


def test_the_collector_tells_prometheus_of_itself(tmp_path: Path) -> None:
    with (
        _collecting(tmp_path, "http://127.0.0.1:1") as (_, metrics),
        urllib.request.urlopen(metrics, timeout=10) as answer,
    ):
        assert b"otelcol_process_uptime" in answer.read()


def test_its_memory_is_bounded_before_anything_else_and_traces_are_chosen_before_they_are_cut() -> None:
    told = yaml.safe_load(CONFIG.read_text())
    order = told["service"]["pipelines"]["traces"]["processors"]
    assert order[0] == "memory_limiter"
    assert order.index("tail_sampling") < order.index("batch")
    assert set(order) == set(told["processors"])


def test_every_component_that_is_named_is_built_in() -> None:
    told = yaml.safe_load(CONFIG.read_text())
    built = (derived.ROOT / "tools/go/otelcol/main.go").read_text().replace("_", "")
    kinds = {
        "receiver": told["receivers"],
        "processor": told["processors"],
        "exporter": told["exporters"],
        "extension": told["extensions"],
    }
    for kind, named in kinds.items():
        for name in named:
            assert f"{name.partition('/')[0].replace('_', '')}{kind}.NewFactory()" in built
