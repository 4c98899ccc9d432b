"""An OutcomeEvent out of what happened, redacted."""

import math
import traceback
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import uuid4

from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity

from services.mesh.redact import redact, redact_text

SUCCESS: Final = OutcomeStatus.OUTCOME_STATUS_SUCCESS
FAILURE: Final = OutcomeStatus.OUTCOME_STATUS_FAILURE
PARTIAL: Final = OutcomeStatus.OUTCOME_STATUS_PARTIAL
TIMEOUT: Final = OutcomeStatus.OUTCOME_STATUS_TIMEOUT
CANCELLED: Final = OutcomeStatus.OUTCOME_STATUS_CANCELLED

_SEVERITY: Final[Mapping[int, Severity.ValueType]] = {
    SUCCESS: Severity.SEVERITY_INFO,
    PARTIAL: Severity.SEVERITY_WARNING,
    CANCELLED: Severity.SEVERITY_INFO,
    TIMEOUT: Severity.SEVERITY_ERROR,
    FAILURE: Severity.SEVERITY_ERROR,
}
# Of an agent or an action without a name, which the contract asks for.
UNNAMED: Final = "unnamed"
_MAX_MESSAGE: Final = 8192
_MAX_TRACE: Final = 65_536
_MAX_NAME: Final = 128


class Links(NamedTuple):
    """What an outcome belongs to; empty where it belongs to nothing."""

    run_id: str = ""
    correlation_id: str = ""
    workflow_id: str = ""
    parent_event_id: str = ""


def new_id() -> str:
    """A random UUID."""
    return str(uuid4())


def status_name(status: int) -> str:
    """`success`, `failure`, …"""
    return OutcomeStatus.Name(OutcomeStatus.ValueType(status)).removeprefix("OUTCOME_STATUS_").lower()


def outcome(
    *,
    agent_name: str,
    agent_type: str,
    action_type: str,
    started: datetime,
    duration_ms: float,
    status: OutcomeStatus.ValueType,
    input_data: object = None,
    output: object = None,
    error: BaseException | None = None,
    links: Links | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, object] | None = None,
    expected: bool = False,
) -> OutcomeEvent:
    """One event. `expected` errors (a caller's fault) are warnings without a stack trace."""
    links = links or Links()
    start = Timestamp()
    start.FromDatetime(started)
    end = Timestamp()
    end.FromMicroseconds(start.ToMicroseconds() + round(duration_ms * 1000))
    event = OutcomeEvent(
        event_id=new_id(),
        run_id=_text(links.run_id)[:_MAX_NAME] or new_id(),
        agent_name=_text(agent_name)[:_MAX_NAME] or UNNAMED,
        agent_type=_text(agent_type)[:_MAX_NAME],
        action_type=_text(action_type)[:_MAX_NAME] or UNNAMED,
        timestamp=end,
        start_time=start,
        end_time=end,
        duration_ms=duration_ms,
        latency_ms=duration_ms,
        status=status,
        severity=Severity.SEVERITY_WARNING if expected and error is not None else _SEVERITY[status],
        tags=[_text(tag)[:_MAX_NAME] for tag in tags][:64],
    )
    for name in ("correlation_id", "workflow_id", "parent_event_id"):
        value = getattr(links, name)
        if value:
            setattr(event, name, _text(value)[:_MAX_NAME])
    if input_data is not None:
        event.input.CopyFrom(as_struct(input_data))
    if output is not None:
        event.output.CopyFrom(as_struct(output))
    if metadata:
        event.metadata.CopyFrom(as_struct(metadata))
    if error is not None:
        event.error_type = _text(type(error).__name__)[:256]
        event.error_message = redact_text(_text(str(error)))[:_MAX_MESSAGE]
        if not expected:
            trace = "".join(traceback.format_exception(error))
            event.stack_trace = redact_text(_text(trace))[-_MAX_TRACE:]
    return event


def as_struct(value: object) -> struct_pb2.Struct:
    """Anything as a redacted JSON object; what is not an object stands under `value`."""
    plain = _plain(redact(value))
    struct = struct_pb2.Struct()
    fields: Any = plain if isinstance(plain, dict) else {"value": plain}
    struct.update(fields)
    return struct


def _plain(value: object) -> object:
    """What JSON can say: other things as their text, numbers that JSON has not as text too."""
    if isinstance(value, dict):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return redact_text(_text(str(value)))


def _text(text: str) -> str:
    """Text as it can be recorded, whatever it was: U+FFFD for half a surrogate pair and for U+0000."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
