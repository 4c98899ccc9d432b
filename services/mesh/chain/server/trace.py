"""One span per call with its true outcome; without an exporter, only the trace's id is carried on.

The package opentelemetry-instrumentation-grpc exports uncaught exceptions and passed deadlines as if all
were well; the attribute names here are the ones it uses.
"""

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.mesh import trace
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.telemetry import Telemetry


class TraceLink(ServerLink):
    """Opens a server span below the caller's, and ends it with the code of the `errors` link."""

    name = "trace"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def before(self, call: ServerCall) -> None:
        metadata = call.metadata
        remote = trace.parse(metadata.get(trace.TRACEPARENT), metadata.get(trace.TRACESTATE))
        if not self._telemetry.exporting:
            call.trace = remote or trace.new_root()
            trace.set_current(call.trace)
            return
        method = call.method
        span = self._telemetry.tracer.start_span(
            method.path[1:],
            # An empty context: whatever was current when the server started is not this call's parent.
            context=otel_context.Context()
            if remote is None
            else set_span_in_context(trace.as_remote_span(remote), otel_context.Context()),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": method.service,
                "rpc.method": method.name,
                "waymesh.request_id": call.request_id,
            },
        )
        call.span = span
        call.token = otel_context.attach(set_span_in_context(span))
        call.trace = trace.of_span(span.get_span_context())
        trace.set_current(call.trace)

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        span = call.span
        if span is not None:
            number, words = call.code.value
            span.set_attribute("rpc.grpc.status_code", number)
            if number == 0:
                span.set_status(Status(StatusCode.OK))
            else:
                message = getattr(error, "message", words)
                span.set_status(Status(StatusCode.ERROR, f"{call.code.name}: {message}"))
            if call.deadline is not None:
                span.set_attribute("waymesh.budget_ms", round((call.deadline - call.started) * 1000, 1))
            span.end()
            otel_context.detach(call.token)
        return error
