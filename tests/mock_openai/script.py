"""What the mock answers, and how it fails while it does."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Fault(Enum):
    """One way to fail; the value is its name in a header, a model's name and the command line."""

    RATE_LIMITED = "rate_limited"  # 429; with `retry_after` in the script, a Retry-After header
    QUOTA = "quota"  # 429 whose code says that waiting does not help
    SERVER_ERROR = "server_error"  # 500
    UNAVAILABLE = "unavailable"  # 503
    BAD_REQUEST = "bad_request"  # 400
    UNAUTHORIZED = "unauthorized"  # 401, with the key in the body
    FORBIDDEN = "forbidden"  # 403
    NOT_FOUND = "not_found"  # 404
    MOVED = "moved"  # 307; `headers` of the script say where to
    CONTEXT_TOO_LONG = "context_too_long"  # 400 with its code
    NEVER_ANSWERS = "never_answers"  # not one byte
    RESET_BEFORE = "reset_before"  # the connection ends before the answer
    RESET_MIDWAY = "reset_midway"  # the connection ends in the middle of the answer
    ENDS_EARLY = "ends_early"  # a stream that ends in good order, but before it is complete
    MALFORMED_BODY = "malformed_body"  # half of a JSON text
    MALFORMED_ARGUMENTS = "malformed_arguments"  # a tool call whose arguments are half of a JSON text
    SCHEMA_VIOLATION = "schema_violation"  # JSON of another shape
    TOOL_LOOP = "tool_loop"  # calls the first tool, whatever it is told
    OVERSIZED = "oversized"  # `size_bytes` of text
    OVERSIZED_ERROR = "oversized_error"  # a 500 with `size_bytes` of body
    CONTENT_FILTER = "content_filter"  # finish_reason content_filter
    REFUSAL = "refusal"  # message.refusal
    NO_CHOICES = "no_choices"  # choices: []
    TRUNCATED = "truncated"  # finish_reason length, in the middle of the text
    SLOW_DRIP = "slow_drip"  # the answer in pieces, `piece_delay_s` apart
    STALLS_MIDWAY = "stalls_midway"  # half of the answer, and then nothing
    NEVER_ENDS = "never_ends"  # a complete stream, and then nothing
    ERROR_CHUNK = "error_chunk"  # an error inside a stream; 200 with an error as body where not streamed
    NO_USAGE = "no_usage"  # a right answer that does not say what it took


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the model asks for; `arguments` is JSON text."""

    name: str
    arguments: str = "{}"
    id: str = "call_1"


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. Token counts that are not given are made from the lengths of what came and goes."""

    text: str = "It is on its way."
    calls: tuple[Call, ...] = ()
    fault: Fault | None = None
    # Value of Retry-After as it stands on the wire: seconds or a date.
    retry_after: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    # Nothing is answered before this is set.
    held: asyncio.Event | None = None
    piece_delay_s: float = 0.02
    piece_chars: int = 16
    size_bytes: int = 4 << 20
    finish_reason: str = ""
    usage: tuple[int, int] | None = None
    # Code of an ERROR_CHUNK.
    error_code: str = "server_error"

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Script":
        """A script as it stands in the header `x-mock-script`."""
        known = dict(values)
        if "fault" in known:
            known["fault"] = Fault(known["fault"])
        known["calls"] = tuple(Call(**call) for call in known.get("calls", ()))
        return replace(cls(), **known)
