"""The trace of a request: goes on from the caller's `traceparent`, or starts here."""

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.gateway.exchange import Exchange
from services.mesh import trace
from services.mesh.errors import MeshError
from services.mesh.redact import redact_forms
from services.mesh.telemetry import Telemetry

if TYPE_CHECKING:
    from services.mesh.spans import CallSpan

# Any other word may be one as well; OpenTelemetry has a name for all of those.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class Spans:
    """Server spans of HTTP requests; attribute names are OpenTelemetry's for HTTP."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def begin(self, exchange: Exchange) -> Any:
        """Makes the request's trace the current one; what comes back goes to `end`."""
        headers = exchange.headers
        remote = None
        if b"traceparent" in headers:
            remote = trace.parse(exchange.text(b"traceparent"), exchange.text(b"tracestate"))
        recorder = self._telemetry.spans
        if recorder is None:
            trace.set_current(remote or trace.new_root())
            return None
        path = redact_forms(exchange.path)
        known = exchange.method in _METHODS
        span = recorder.begin(
            f"{exchange.method if known else 'HTTP'} {path[:100]}",
            SpanKind.SERVER,
            {
                "http.request.method": exchange.method if known else "_OTHER",
                "url.path": path[:200],
                "waymesh.request_id": exchange.request_id,
            },
            remote,
        )
        trace.set_current(span.here)
        return span, otel_context.attach(set_span_in_context(span.as_current()))

    def end(self, begun: Any, exchange: Exchange, status: int, error: MeshError | None) -> None:
        """Ends the span with the request's true outcome."""
        span: CallSpan
        span, token = begun
        span.attributes["http.response.status_code"] = status
        if exchange.task:
            span.attributes["waymesh.task"] = exchange.task
        if exchange.template:
            span.attributes["http.route"] = exchange.template
        if exchange.events:
            span.attributes["waymesh.events"] = exchange.events
        if error is None and status < 400:
            span.end(Status(StatusCode.OK))
        else:
            code = "CANCELLED" if error is None else error.code.name
            span.attributes["error.type"] = code
            # A client's fault is an error of this span's work too: the request was not done.
            span.end(Status(StatusCode.ERROR, code if error is None else f"{code}: {error.message}"))
        otel_context.detach(token)
