"""One span per call, all its attempts together, and the headers that let the server continue the trace.

The interceptor of opentelemetry-instrumentation-grpc waits for the call's code: a cancelled caller leaves
the server's handler running, and its span never ends.
"""

import asyncio

from opentelemetry import trace as otel_trace
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.mesh import trace
from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.telemetry import Telemetry


class TraceLink(ClientLink):
    """Adds `traceparent`; with an exporter, records a client span."""

    name = "trace"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def before(self, call: ClientCall) -> None:
        here = trace.current()
        if self._telemetry.exporting:
            here = self._start_span(call, here)
        elif here is None:
            here = trace.new_root()
        call.metadata.append((trace.TRACEPARENT, here.parent))
        if here.state:
            call.metadata.append((trace.TRACESTATE, here.state))

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        span = call.span
        if span is not None:
            if error is None:
                span.set_attribute("rpc.grpc.status_code", 0)
                span.set_status(Status(StatusCode.OK))
            else:
                number, name, text = _outcome(error)
                span.set_attribute("rpc.grpc.status_code", number)
                span.set_status(Status(StatusCode.ERROR, f"{name}: {text}"))
            if call.attempts > 1:
                span.set_attribute("waymesh.attempts", call.attempts)
            span.end()
        return error

    def _start_span(self, call: ClientCall, here: trace.TraceContext | None) -> trace.TraceContext:
        context = None
        if here is not None and not otel_trace.get_current_span().get_span_context().is_valid:
            context = set_span_in_context(trace.as_remote_span(here))
        method = call.method
        call.span = self._telemetry.tracer.start_span(
            method.path[1:],
            context=context,
            kind=SpanKind.CLIENT,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": method.service,
                "rpc.method": method.name,
                "server.address": call.target,
            },
        )
        return trace.of_span(call.span.get_span_context())


def _outcome(error: BaseException) -> tuple[int, str, str]:
    """Number, name and text of the gRPC code behind an error."""
    if isinstance(error, asyncio.CancelledError):
        return 1, "CANCELLED", "the caller has gone"
    code = getattr(error, "code", None)
    if code is None or not hasattr(code, "value"):
        return 2, "UNKNOWN", type(error).__name__
    return code.value[0], code.name, str(error)
