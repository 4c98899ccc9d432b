"""Spans of calls, each made when its call has ended: for a third of what the SDK's own take.

While a call runs only its place in the trace and its start are kept; the SDK's `ReadableSpan` is built once,
with everything known, and given to the SDK's processors. Whoever starts spans of their own by the tracer
finds the call's as their parent.
"""

import os
import time
from collections.abc import Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status
from opentelemetry.util.types import AttributeValue

from services.mesh import trace
from services.mesh.redact import redact_text
from services.mesh.trace import TraceContext

# Of every span made here, and of no other.
SCOPE: Final = InstrumentationScope("waymesh.mesh")


class CallSpan:
    """The span of a call under way; `here` is its place in the trace, `attributes` what it will say."""

    __slots__ = ("_kind", "_name", "_parent", "_recorder", "_start_ns", "attributes", "context", "here")

    def __init__(
        self,
        recorder: "SpanRecorder",
        name: str,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        here: TraceContext,
        parent: TraceContext | None,
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._kind = kind
        self._parent = parent
        self._start_ns = time.time_ns()
        self.attributes = attributes
        self.here = here
        self.context: SpanContext = trace.span_context(here, remote=False)

    def as_current(self) -> NonRecordingSpan:
        """What spans of others have as their parent."""
        return NonRecordingSpan(self.context)

    def end(self, status: Status) -> None:
        """Records it with the call's outcome, if its trace is recorded."""
        if not self.here.sampled:
            return
        if status.description is not None:
            status = Status(status.status_code, redact_text(status.description))
        parent = self._parent
        remote = self._kind is SpanKind.SERVER
        self._recorder.record(
            ReadableSpan(
                name=self._name,
                context=self.context,
                parent=None if parent is None else trace.span_context(parent, remote=remote),
                resource=self._recorder.resource,
                attributes=self.attributes,
                kind=self._kind,
                status=status,
                start_time=self._start_ns,
                end_time=time.time_ns(),
                instrumentation_scope=SCOPE,
            )
        )


class SpanRecorder:
    """Begins spans of calls. A trace that starts here is recorded with probability `ratio`; one that a caller
    has begun, if the caller records it (as the SDK's ParentBasedTraceIdRatio decides).
    """

    def __init__(self, processors: Sequence[SpanProcessor], resource: Resource, ratio: float) -> None:
        self._processors = tuple(processors)
        self._bound = round(ratio * 2**64)
        self.resource = resource

    def begin(
        self,
        name: str,
        kind: SpanKind,
        attributes: dict[str, AttributeValue],
        parent: TraceContext | None,
    ) -> CallSpan:
        """A span that starts now, below `parent` or as the first of a new trace."""
        if parent is None:
            digits = os.urandom(24).hex()
            sampled = int(digits[16:32], 16) < self._bound
            here = TraceContext(f"00-{digits[:32]}-{digits[32:]}-{'01' if sampled else '00'}")
        else:
            came = parent.parent
            here = TraceContext(f"00-{came[3:36]}{os.urandom(8).hex()}{came[52:]}", parent.state)
        return CallSpan(self, name, kind, attributes, here, parent)

    def record(self, span: ReadableSpan) -> None:
        """Gives it to the processors."""
        for processor in self._processors:
            processor.on_end(span)
