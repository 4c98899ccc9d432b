"""The trace of a request: goes on from the caller's `traceparent`, or starts here."""

from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context

from services.gateway.exchange import Exchange
from services.mesh import trace
from services.mesh.errors import MeshError
from services.mesh.telemetry import Telemetry

_SERVER_FAULT: Final = 500


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
        if not self._telemetry.exporting:
            trace.set_current(remote or trace.new_root())
            return None
        context = otel_context.Context()
        span = self._telemetry.tracer.start_span(
            f"{exchange.method} {exchange.path[:100]}",
            context=context if remote is None else set_span_in_context(trace.as_remote_span(remote), context),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": exchange.method,
                "url.path": exchange.path[:200],
                "waymesh.request_id": exchange.request_id,
            },
        )
        trace.set_current(trace.of_span(span.get_span_context()))
        return span, otel_context.attach(set_span_in_context(span))

    def end(self, begun: Any, exchange: Exchange, status: int, error: MeshError | None) -> None:
        """Ends the span with the request's true outcome."""
        span: Span
        span, token = begun
        span.set_attribute("http.response.status_code", status)
        if exchange.task:
            span.set_attribute("waymesh.task", exchange.task)
        if error is None and status < 400:
            span.set_status(Status(StatusCode.OK))
        else:
            code = "CANCELLED" if error is None else error.code.name
            span.set_attribute("error.type", code)
            # A client's fault is an error of this span's work too: the request was not done.
            span.set_status(Status(StatusCode.ERROR, code if error is None else f"{code}: {error.message}"))
        span.end()
        otel_context.detach(token)
