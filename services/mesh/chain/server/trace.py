"""One span per call with its true outcome; without an exporter, only the trace's id is carried on.

The package opentelemetry-instrumentation-grpc exports uncaught exceptions and passed deadlines as if all
were well; the attribute names here are the ones it uses.
"""

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.mesh import trace
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.telemetry import Telemetry

_MAY_DEGRADE = "may degrade"


class TraceLink(ServerLink):
    """Opens a server span below the caller's, and ends it with the code of the `errors` link."""

    name = "trace"

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def before(self, call: ServerCall) -> None:
        metadata = call.metadata
        remote = trace.parse(metadata.get(trace.TRACEPARENT), metadata.get(trace.TRACESTATE))
        recorder = self._telemetry.spans
        if recorder is None:
            call.trace = remote or trace.new_root()
            trace.set_current(call.trace)
            return
        method = call.method
        call.span = recorder.begin(
            method.path[1:],
            SpanKind.SERVER,
            {
                "rpc.system": "grpc",
                "rpc.service": method.service,
                "rpc.method": method.name,
                "waymesh.request_id": call.request_id,
            },
            remote,
        )
        call.token = otel_context.attach(set_span_in_context(call.span.as_current()))
        call.trace = call.span.here
        trace.set_current(call.trace)

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        span = call.span
        if span is not None:
            number, words = call.code.value
            span.attributes["rpc.grpc.status_code"] = number
            if call.deadline is not None:
                span.attributes["waymesh.budget_ms"] = round((call.deadline - call.started) * 1000, 1)
            if number == 0:
                if _degraded(call):
                    span.attributes["waymesh.degraded"] = True
                span.end(Status(StatusCode.OK))
            else:
                message = getattr(error, "message", words)
                span.end(Status(StatusCode.ERROR, f"{call.code.name}: {message}"))
            otel_context.detach(call.token)
        return error


def _degraded(call: ServerCall) -> bool:
    """Whether the answer came from a fallback: such traces are kept."""
    memo = call.method.memo
    may = memo.get(_MAY_DEGRADE)
    if may is None and call.response is not None:
        may = memo[_MAY_DEGRADE] = "degradation" in call.response.DESCRIPTOR.fields_by_name
    return bool(may) and call.response.HasField("degradation")
