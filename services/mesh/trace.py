"""Which trace the work at hand belongs to: W3C `traceparent` and `tracestate` in a context variable.

Kept as the header's text: where nobody records spans, passing a trace on costs no more than a string.
Source of the format: https://www.w3.org/TR/trace-context/ (version 00).
"""

import os
import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from opentelemetry.trace import SpanContext, TraceFlags, TraceState

from services.mesh.redact import redact_forms

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

_VALID: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?"
)
# What a header of a call can carry, and no longer than everybody has to pass on (3.3.1.5).
_STATE: Final = re.compile(r"[\x20-\x7e]{1,512}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Place in a trace, as it travels: `parent` is the traceparent header, `state` the tracestate one."""

    parent: str
    state: str = ""

    @property
    def trace_id(self) -> str:
        """32 lower-case hexadecimal digits."""
        return self.parent[3:35]

    @property
    def sampled(self) -> bool:
        """Whether somebody upstream records this trace."""
        return bool(int(self.parent[53:55], 16) & 1)


_current: ContextVar[TraceContext | None] = ContextVar("waymesh_trace", default=None)
current = _current.get
set_current = _current.set
reset_current = _current.reset


def current_trace_id() -> str:
    """Trace id of the work at hand; empty outside of any."""
    trace = _current.get()
    return "" if trace is None else trace.parent[3:35]


def parse(parent: str | bytes | None, state: str | bytes | None = None) -> TraceContext | None:
    """The headers as a place in a trace; None if they are missing or malformed.

    A state that cannot be passed on, or looks as if it held a key, is left out; the trace goes on without it.
    """
    if not isinstance(parent, str) or _VALID.fullmatch(parent) is None:
        return None
    if len(parent) > 55 and parent.startswith("00"):  # version 00 has nothing after the flags
        return None
    if not isinstance(state, str) or _STATE.fullmatch(state) is None or redact_forms(state) != state:
        state = ""
    return TraceContext(parent[:55], state)


def new_root(*, sampled: bool = False) -> TraceContext:
    """A trace that starts here."""
    digits = os.urandom(24).hex()  # unlike `random`, different in processes that were forked
    return TraceContext(f"00-{digits[:32]}-{digits[32:]}-{'01' if sampled else '00'}")


def of_span(span: SpanContext) -> TraceContext:
    """The place in the trace of a recorded span."""
    state = span.trace_state.to_header() if span.trace_state else ""
    return TraceContext(f"00-{span.trace_id:032x}-{span.span_id:016x}-{int(span.trace_flags):02x}", state)


def span_context(trace: TraceContext, *, remote: bool) -> SpanContext:
    """The same for OpenTelemetry; `remote` if it came from another process."""
    return SpanContext(
        trace_id=int(trace.parent[3:35], 16),
        span_id=int(trace.parent[36:52], 16),
        is_remote=remote,
        trace_flags=TraceFlags(int(trace.parent[53:55], 16)),
        trace_state=TraceState.from_header([trace.state]) if trace.state else None,
    )
