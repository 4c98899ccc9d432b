"""One span per call, all its attempts together, and the headers that let the server continue the trace.

The interceptor of opentelemetry-instrumentation-grpc waits for the call's code: a cancelled caller leaves
the server's handler running, and its span never ends.
"""

import asyncio
from typing import TYPE_CHECKING

from opentelemetry import trace as otel_trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.mesh import trace
from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.telemetry import Telemetry

if TYPE_CHECKING:
    from services.mesh.spans import SpanRecorder


class TraceLink(ClientLink):
    """Adds `traceparent`; with an exporter, records a client span."""

    name = "trace"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def before(self, call: ClientCall) -> None:
        here = trace.current()
        recorder = self._telemetry.spans
        if recorder is not None:
            here = _begin_span(recorder, call, here)
        elif here is None:
            here = trace.new_root()
        call.metadata.append((trace.TRACEPARENT, here.parent))
        if here.state:
            call.metadata.append((trace.TRACESTATE, here.state))

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        span = call.span
        if span is not None:
            if call.attempts > 1:
                span.attributes["waymesh.attempts"] = call.attempts
            if error is None:
                span.attributes["rpc.grpc.status_code"] = 0
                span.end(Status(StatusCode.OK))
            else:
                number, name, text = _outcome(error)
                span.attributes["rpc.grpc.status_code"] = number
                span.end(Status(StatusCode.ERROR, f"{name}: {text}"))
        return error


def _begin_span(
    recorder: "SpanRecorder", call: ClientCall, here: trace.TraceContext | None
) -> trace.TraceContext:
    # Whoever calls may have begun a span of its own below the mesh's.
    parent = otel_trace.get_current_span().get_span_context()
    method = call.method
    call.span = recorder.begin(
        method.path[1:],
        SpanKind.CLIENT,
        {
            "rpc.system": "grpc",
            "rpc.service": method.service,
            "rpc.method": method.name,
            "server.address": call.target,
        },
        trace.of_span(parent) if parent.is_valid else here,
    )
    return call.span.here


def _outcome(error: BaseException) -> tuple[int, str, str]:
    """Number, name and text of the gRPC code behind an error."""
    if isinstance(error, asyncio.CancelledError):
        return 1, "CANCELLED", "the caller has gone"
    code = getattr(error, "code", None)
    if code is None or not hasattr(code, "value"):
        return 2, "UNKNOWN", type(error).__name__
    return code.value[0], code.name, str(error)
