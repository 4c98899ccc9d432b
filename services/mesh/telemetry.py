"""What a process says about itself: metrics in a Prometheus registry, spans by OTLP.

Spans are recorded only where they go somewhere: without an exporter `spans` is None, no tracer of the SDK
exists, and a hop costs no more than passing the trace's id on.
"""

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import NoOpTracer, Tracer
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from services.mesh.call_times import CallTimes
from services.mesh.loop_lag import LoopLag
from services.mesh.outboxes import Outboxes
from services.mesh.settings import MeshSettings

if TYPE_CHECKING:
    from asyncpg import Pool
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from services.mesh.spans import SpanRecorder

_log = logging.getLogger(__name__)

# Seconds; from a call answered from memory to one that used up the gateway's longest budget.
LATENCY_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip
# From an event that is handled as it comes to one that has waited for an hour.
_AGE_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
_SHUTDOWN_S: Final = 2.0


class Telemetry:
    """Tracer and metrics of one process; make one with `create`."""

    def __init__(
        self,
        service: str,
        provider: "TracerProvider | None" = None,
        spans: "SpanRecorder | None" = None,
    ) -> None:
        self.service = service
        self.spans = spans
        """Records the spans of calls; None where they would go nowhere."""
        self._provider = provider
        self.tracer: Tracer = provider.get_tracer("waymesh.mesh") if provider is not None else NoOpTracer()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        # Of these three, `agent_type` is the service that runs the task: one place counts it, so that sums
        # over the mesh hold. The gateway counts what no service has had.
        self.agent_calls = Counter(
            "agent_calls",
            "Tasks an agent or engine has run",
            ["agent_type", "status"],
            registry=self.registry,
        )
        self.agent_duration = Histogram(
            "agent_duration_seconds",
            "Time of a task of an agent or engine",
            ["agent_type"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.active_sessions = Gauge(
            "active_sessions_current", "Tasks under way", ["agent_type"], registry=self.registry
        )
        self.kafka_messages = Counter(
            "kafka_messages",
            "Events published and consumed, by outcome",
            ["topic", "status"],
            registry=self.registry,
        )
        self.kafka_consumer_lag = Gauge(
            "kafka_consumer_lag", "Events not yet consumed", ["topic", "partition"], registry=self.registry
        )
        # The names of go-grpc-prometheus, for which dashboards exist.
        self.server_handling = CallTimes(
            "grpc_server_handling_seconds", "Time of a call in the server, by outcome", LATENCY_BUCKETS
        )
        self.client_handling = CallTimes(
            "grpc_client_handling_seconds",
            "Time of a call as the client saw it, retries included, by outcome",
            LATENCY_BUCKETS,
        )
        self.registry.register(self.server_handling)
        self.registry.register(self.client_handling)
        self.server_in_flight = Gauge(
            "waymesh_server_in_flight", "Calls under way in the server", registry=self.registry
        )
        self.client_retries = Counter(
            "waymesh_client_retries",
            "Attempts after the first",
            ["grpc_service", "grpc_method"],
            registry=self.registry,
        )
        self.breaker_state = Gauge(
            "waymesh_breaker_state",
            "0 closed, 1 half-open, 2 open",
            ["target", "method"],
            registry=self.registry,
        )
        self.breaker_opened = Counter(
            "waymesh_breaker_opened", "Times a breaker opened", ["target", "method"], registry=self.registry
        )
        self.health = Gauge(
            "waymesh_health", "1 while a dependency check passes", ["check"], registry=self.registry
        )
        self.event_age = Histogram(
            "waymesh_event_age_seconds",
            "Time from when the bus took an event in to when it was handled, of the oldest of each batch",
            ["topic"],
            buckets=_AGE_BUCKETS,
            registry=self.registry,
        )
        self._connections = Gauge(
            "waymesh_store_connections",
            "Connections to PostgreSQL, by what they do",
            ["state"],
            registry=self.registry,
        )
        self._connections_max = Gauge(
            "waymesh_store_connections_max", "Connections there may be at most", registry=self.registry
        )
        self.outboxes = Outboxes()
        self.registry.register(self.outboxes)
        self.loop_lag = LoopLag(self.registry)
        Gauge(
            "waymesh_build_info", "Which build this is; always 1", ["version"], registry=self.registry
        ).labels(metadata.version("waymesh")).set(1)

    def watch_pool(self, pool: "Pool") -> None:
        """The connections of the process's store, as of each scrape."""
        self._connections.labels("idle").set_function(pool.get_idle_size)
        self._connections.labels("in_use").set_function(lambda: pool.get_size() - pool.get_idle_size())
        self._connections_max.set_function(pool.get_max_size)

    @classmethod
    def create(
        cls,
        service: str,
        settings: MeshSettings | None = None,
        *,
        span_processors: "Sequence[SpanProcessor]" = (),
    ) -> "Telemetry":
        """Telemetry by the settings; `span_processors` get the spans besides, or instead of, a collector.

        Starting does not wait for the collector; one that is away costs dropped spans and nothing else.
        """
        endpoint: str | None = None
        ratio = 1.0
        if settings is not None:
            endpoint, warning = settings.otlp_endpoint()
            ratio = settings.trace_ratio
            if warning is not None:
                _log.warning(warning)
        if endpoint is None and not span_processors:
            return cls(service)
        return cls(service, *_provider(service, endpoint, ratio, span_processors))

    async def shutdown(self, timeout_s: float = _SHUTDOWN_S) -> None:
        """Sends the spans that wait, for at most `timeout_s`."""
        provider, self._provider = self._provider, None
        if provider is None:
            return
        self.spans = None
        self.tracer = NoOpTracer()
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def close() -> None:
            try:
                provider.shutdown()
            except Exception:
                _log.warning("the last spans could not be sent", exc_info=True)
            with contextlib.suppress(RuntimeError):  # the loop may have gone on without us
                loop.call_soon_threadsafe(done.set)

        # A daemon thread: an exporter that hangs must not hold the process.
        threading.Thread(target=close, name="telemetry-shutdown", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), timeout_s)
        except TimeoutError:
            _log.warning("the collector did not take the last spans within %.1f s", timeout_s)


def _provider(
    service: str, endpoint: str | None, ratio: float, span_processors: "Sequence[SpanProcessor]"
) -> "tuple[TracerProvider, SpanRecorder]":
    # Imported late: ~10 MB and ~0.2 s that a process without a collector does not need.
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

    from services.mesh.spans import SpanRecorder

    resource = Resource.create(
        {"service.name": service, "service.namespace": "waymesh", "process.pid": os.getpid()}
    )
    provider = TracerProvider(
        resource=resource,
        sampler=ParentBasedTraceIdRatio(ratio),
        shutdown_on_exit=False,  # its hook would wait for the collector; Telemetry.shutdown does not
    )
    processors = list(span_processors)
    if endpoint is not None:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from services.mesh.otlp import CallSpanExporter

        exporter = CallSpanExporter(endpoint=endpoint.rstrip("/") + "/v1/traces", timeout=5)
        processors.append(BatchSpanProcessor(exporter))
    for processor in processors:
        provider.add_span_processor(processor)
    return provider, SpanRecorder(processors, resource, ratio)
