"""The span of a call that was answered by a fallback says so: such traces are kept."""

import contextvars
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.route.v1.route_service_pb2 import AllocateDriversResponse, GetOrderResponse

from services.mesh.chain.method import describe_method
from services.mesh.chain.server.call import ServerCall
from services.mesh.chain.server.trace import TraceLink
from services.mesh.telemetry import Telemetry

FALLBACK = Degradation(source="route.estimate", reason="eta is away")


def _attributes(method: str, response: Any) -> dict[str, Any]:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry.create("route", span_processors=[SimpleSpanProcessor(exporter)])
    link = TraceLink(telemetry)
    call = ServerCall(
        describe_method(f"/waymesh.route.v1.RouteService/{method}"), None, None, {}, time.monotonic()
    )

    def run() -> None:
        link.before(call)
        call.response = response
        link.after(call, None)

    contextvars.copy_context().run(run)  # each call has a context of its own, and takes its trace with it
    (span,) = exporter.get_finished_spans()
    return dict(span.attributes or {})


def test_an_answer_of_a_fallback_is_marked() -> None:
    told = _attributes("AllocateDrivers", AllocateDriversResponse(degradation=FALLBACK))
    assert told["waymesh.degraded"] is True


@pytest.mark.parametrize(
    ("method", "response"),
    [("AllocateDrivers", AllocateDriversResponse()), ("GetOrder", GetOrderResponse()), ("GetOrder", None)],
)
def test_any_other_is_not(method: str, response: Any) -> None:
    assert "waymesh.degraded" not in _attributes(method, response)
