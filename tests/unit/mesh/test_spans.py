"""Spans of calls as the SDK's processors get them."""

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

from services.mesh import trace
from services.mesh.settings import MeshSettings
from services.mesh.spans import SpanRecorder
from services.mesh.telemetry import Telemetry


def recording(ratio: float = 1.0) -> tuple[Telemetry, SpanRecorder, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    settings = MeshSettings(trace_ratio=ratio)
    telemetry = Telemetry.create("eta", settings, span_processors=[SimpleSpanProcessor(exporter)])
    assert telemetry.spans is not None
    return telemetry, telemetry.spans, exporter


def test_a_span_says_what_was_known_at_its_end() -> None:
    _, recorder, exporter = recording()

    span = recorder.begin("a.B/C", SpanKind.CLIENT, {"rpc.system": "grpc"}, None)
    span.attributes["rpc.grpc.status_code"] = 5
    span.end(Status(StatusCode.ERROR, "NOT_FOUND: gone"))

    (told,) = exporter.get_finished_spans()
    assert (told.name, told.kind, told.parent) == ("a.B/C", SpanKind.CLIENT, None)
    assert told.attributes == {"rpc.system": "grpc", "rpc.grpc.status_code": 5}
    assert (told.status.status_code, told.status.description) == (StatusCode.ERROR, "NOT_FOUND: gone")
    assert told.start_time is not None
    assert told.end_time is not None
    assert told.start_time <= told.end_time
    assert told.resource.attributes["service.name"] == "eta"
    assert f"00-{told.context.trace_id:032x}-{told.context.span_id:016x}-01" == span.here.parent


def test_a_span_goes_on_where_its_caller_is_and_keeps_what_others_wrote() -> None:
    _, recorder, exporter = recording(ratio=0.0)
    caller = trace.parse("cc-" + "ab" * 16 + "-" + "cd" * 8 + "-01-more", "vendor=1")

    span = recorder.begin("a.B/C", SpanKind.SERVER, {}, caller)
    span.end(Status(StatusCode.OK))

    (told,) = exporter.get_finished_spans()
    assert told.parent is not None
    assert (told.parent.span_id, told.parent.is_remote) == (0xCDCDCDCDCDCDCDCD, True)
    assert span.here.parent.startswith("00-" + "ab" * 16 + "-")
    assert span.here.parent.endswith("-01")
    assert span.here.state == "vendor=1"
    assert told.context.trace_state.get("vendor") == "1"


def test_what_the_caller_does_not_record_is_not_recorded() -> None:
    _, recorder, exporter = recording()
    caller = trace.new_root(sampled=False)

    span = recorder.begin("a.B/C", SpanKind.SERVER, {}, caller)
    span.end(Status(StatusCode.OK))

    assert exporter.get_finished_spans() == ()
    assert not span.here.sampled


def test_new_traces_are_recorded_as_the_sdk_would_decide() -> None:
    _, recorder, _ = recording(ratio=0.3)
    sampler = TraceIdRatioBased(0.3)

    begun = [recorder.begin("x", SpanKind.SERVER, {}, None) for _ in range(500)]

    assert [span.here.sampled for span in begun] == [
        sampler.should_sample(None, span.context.trace_id, "x").decision.is_sampled() for span in begun
    ]
    assert {span.here.sampled for span in begun} == {True, False}


def test_spans_of_others_have_the_calls_as_their_parent() -> None:
    telemetry, recorder, exporter = recording()

    span = recorder.begin("a.B/C", SpanKind.SERVER, {}, None)
    telemetry.tracer.start_span("inside", context=set_span_in_context(span.as_current())).end()
    span.end(Status(StatusCode.OK))

    inside, around = exporter.get_finished_spans()
    assert inside.parent is not None
    assert inside.parent.span_id == around.context.span_id
    assert inside.context.trace_id == around.context.trace_id
