"""Our encoder of spans beside the exporter's own."""

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.mesh import otlp, trace
from services.mesh.telemetry import Telemetry

values = st.one_of(st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))
parents = st.sampled_from(
    [None, trace.new_root(sampled=True), trace.parse("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01", "a=1,b=2")]
)
outcomes = st.one_of(
    st.just(Status(StatusCode.OK)), st.text().map(lambda text: Status(StatusCode.ERROR, text))
)
calls = st.tuples(
    st.text(min_size=1),
    st.sampled_from([SpanKind.SERVER, SpanKind.CLIENT]),
    st.dictionaries(st.text(min_size=1), values),
    parents,
    outcomes,
)


def recorded(begun: list[tuple[object, ...]], others: int = 0) -> tuple[ReadableSpan, ...]:
    exporter = InMemorySpanExporter()
    telemetry = Telemetry.create("eta", span_processors=[SimpleSpanProcessor(exporter)])
    assert telemetry.spans is not None
    for name, kind, attributes, parent, status in begun:
        span = telemetry.spans.begin(name, kind, dict(attributes), parent)  # type: ignore[call-overload,arg-type]
        inside = set_span_in_context(span.as_current())
        for _ in range(others):
            telemetry.tracer.start_span("inside", context=inside, attributes={"list": ["a", "b"]}).end()
        span.end(status)  # type: ignore[arg-type]
    return exporter.get_finished_spans()


@given(st.lists(calls, min_size=1, max_size=4))
def test_spans_of_calls_are_encoded_as_the_exporter_would(begun: list[tuple[object, ...]]) -> None:
    spans = recorded(begun)

    assert otlp.encode(spans) == encode_spans(spans)


def test_spans_of_others_are_not_lost_among_those_of_calls() -> None:
    call = ("a.B/C", SpanKind.SERVER, {"n": 1}, None, Status(StatusCode.OK))
    spans = recorded([call, call], others=2)

    sent = [
        span.SerializeToString()
        for resource in otlp.encode(spans).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    expected = [
        span.SerializeToString()
        for resource in encode_spans(spans).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert len(sent) == 6
    assert sorted(sent) == sorted(expected)
    assert otlp.encode(spans[:1]) == encode_spans(spans[:1])
