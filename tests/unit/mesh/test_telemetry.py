"""Metrics by their exact names; spans that hold nobody up."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from services.mesh.call_times import CallTimes
from services.mesh.settings import MeshSettings, load
from services.mesh.telemetry import LATENCY_BUCKETS, Telemetry

# The exporter itself would wait longer for its collector.
HANG_S = 4.0


def test_names_and_labels_are_those_of_the_requirements():
    telemetry = Telemetry.create("eta")
    telemetry.agent_calls.labels("eta", "success").inc()
    telemetry.agent_duration.labels("eta").observe(0.1)
    telemetry.active_sessions.labels("eta").set(1)
    telemetry.kafka_messages.labels("orders", "published").inc()
    telemetry.kafka_consumer_lag.labels("orders", "0").set(3)
    text = generate_latest(telemetry.registry).decode()
    for sample in (
        'agent_calls_total{agent_type="eta",status="success"} 1.0',
        'agent_duration_seconds_count{agent_type="eta"} 1.0',
        'active_sessions_current{agent_type="eta"} 1.0',
        'kafka_messages_total{status="published",topic="orders"} 1.0',
        'kafka_consumer_lag{partition="0",topic="orders"} 3.0',
    ):
        assert sample in text
    assert "_created" not in text


@given(st.lists(st.floats(0, 100) | st.sampled_from(LATENCY_BUCKETS), max_size=30))
def test_call_times_say_what_a_histogram_of_prometheus_says(seconds: list[float]):
    ours = CallTimes("t", "d", LATENCY_BUCKETS)
    registry, other = CollectorRegistry(), CollectorRegistry()
    registry.register(ours)
    theirs = Histogram(
        "t", "d", ["grpc_service", "grpc_method", "grpc_code"], buckets=LATENCY_BUCKETS, registry=other
    )
    for each in seconds:
        ours.of("s", "m", "OK").observe(each)
        theirs.labels("s", "m", "OK").observe(each)
    assert sorted(generate_latest(registry).splitlines()) == sorted(generate_latest(other).splitlines())


def test_without_an_exporter_nothing_is_recorded():
    telemetry = Telemetry.create("eta", load(MeshSettings))
    assert telemetry.spans is None
    assert not telemetry.tracer.start_span("x").is_recording()


async def test_the_last_spans_are_sent_at_shutdown():
    exporter = InMemorySpanExporter()
    telemetry = Telemetry.create("eta", span_processors=[SimpleSpanProcessor(exporter)])
    telemetry.tracer.start_span("x").end()
    await telemetry.shutdown()
    (span,) = exporter.get_finished_spans()
    assert span.resource.attributes["service.name"] == "eta"
    assert telemetry.spans is None
    await telemetry.shutdown()


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


async def test_a_collector_that_hangs_holds_up_neither_start_nor_stop(silent_collector: str):
    settings = load(MeshSettings, otel_exporter_otlp_endpoint=silent_collector)
    async with asyncio.timeout(HANG_S):
        telemetry = Telemetry.create("eta", settings)
        telemetry.tracer.start_span("x").end()
        await telemetry.shutdown(timeout_s=0.1)
