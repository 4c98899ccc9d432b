"""An OutcomeEvent out of what happened, redacted.

What is recorded belongs to others: their objects' own code runs while they are looked at, and may fail. What
cannot be read stands as UNREADABLE, and the event's metadata names it under `unreadable`.
"""

import math
import re
import traceback
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, Final, NamedTuple, cast
from uuid import uuid4

from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity

from services.mesh import json_codec
from services.mesh.feedback.clip import Clip, clip_text
from services.mesh.feedback.names import clean_name, is_name
from services.mesh.redact import MAX_DEPTH, redact, redact_text

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
UNREADABLE: Final = "[cannot be read]"
# The contract lets it be eight times as long; to look for secrets in it takes the loop's time.
_MAX_TRACE: Final = 8_192
_MAX_FRAMES: Final = 50
_MAX_NAME: Final = 128
_MAX_TAGS: Final = 64
# An event that others made and that is larger loses its payloads: to redact them takes the loop's time.
_MAX_EVENT_BYTES: Final = 32_768
# Texts of an event that are redacted, and how long the contract lets them be. Not event_id and
# parent_event_id: an identity that is changed on its way is another one.
_NAME_LIMITS: Final[Mapping[str, int]] = {
    "run_id": _MAX_NAME,
    "agent_name": _MAX_NAME,
    "agent_type": _MAX_NAME,
    "action_type": _MAX_NAME,
    "correlation_id": _MAX_NAME,
    "workflow_id": _MAX_NAME,
    "error_type": 256,
}
_MESSAGE: Final = "error_message"
_LIMITS: Final[Mapping[str, int]] = {**_NAME_LIMITS, _MESSAGE: 8192}
_PAYLOADS: Final = ("input", "output", "metadata")
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Links(NamedTuple):
    """What an outcome belongs to; empty where it belongs to nothing."""

    run_id: object = ""
    correlation_id: object = ""
    workflow_id: object = ""
    parent_event_id: object = ""


def new_id() -> str:
    """A random UUID."""
    return str(uuid4())


def status_name(status: int) -> str:
    """`success`, `failure`, …"""
    return OutcomeStatus.Name(OutcomeStatus.ValueType(status)).removeprefix("OUTCOME_STATUS_").lower()


def outcome(
    *,
    agent_name: object,
    agent_type: object,
    action_type: object,
    started: datetime,
    duration_ms: float,
    status: OutcomeStatus.ValueType,
    input_data: object = None,
    output: object = None,
    error: BaseException | None = None,
    links: Links | None = None,
    tags: Iterable[object] = (),
    metadata: Mapping[str, object] | None = None,
    expected: bool = False,
) -> OutcomeEvent:
    """One event. `expected` errors (a caller's fault) are warnings without a stack trace.

    Whatever the objects given do when they are looked at, this does not raise.
    """
    links = links or Links()
    reader = _Reader()
    start = Timestamp()
    start.FromDatetime(started)
    end = Timestamp()
    end.FromMicroseconds(start.ToMicroseconds() + round(duration_ms * 1000))
    event = OutcomeEvent(
        event_id=new_id(),
        run_id=reader.text("run_id", links.run_id) or new_id(),
        agent_name=reader.text("agent_name", agent_name) or UNNAMED,
        agent_type=reader.text("agent_type", agent_type),
        action_type=reader.text("action_type", action_type) or UNNAMED,
        timestamp=end,
        start_time=start,
        end_time=end,
        duration_ms=duration_ms,
        latency_ms=duration_ms,
        status=status,
        severity=Severity.SEVERITY_WARNING if expected and error is not None else _SEVERITY[status],
        tags=reader.tags(tags),
    )
    for name in ("correlation_id", "workflow_id", "parent_event_id"):
        text = reader.text(name, getattr(links, name))
        if text:
            setattr(event, name, text)
    for name, payload in (("input", input_data), ("output", output), ("metadata", metadata or None)):
        if payload is not None:
            getattr(event, name).CopyFrom(reader.payload(name, payload))
    if error is not None:
        event.error_type = reader.text("error_type", type(error).__name__)
        event.error_message = reader.text("error_message", error)
        if not expected:
            event.stack_trace = reader.trace(error)
    if reader.failed:
        event.metadata.update({"unreadable": sorted(reader.failed)})
    if reader.clipped:
        event.metadata.update({"clipped": sorted(reader.clipped)})
    return event


def as_text(value: object) -> str:
    """Anything as a name that may be recorded; empty for None and for blanks. Does not raise."""
    return _Reader().text("", value)


def describe(error: BaseException) -> str:
    """Type and text of an error as they may be recorded. Does not raise."""
    return f"{type(error).__name__}: {_Reader().text('error_message', error)}"


def unreadable(event: OutcomeEvent) -> bool:
    """Whether something of what happened could not be read."""
    return event.HasField("metadata") and "unreadable" in event.metadata.fields


def within_bounds(event: OutcomeEvent) -> OutcomeEvent:
    """The event; one of more than 32 KiB without its payloads, which its metadata names under `clipped`."""
    if event.ByteSize() <= _MAX_EVENT_BYTES:
        return event
    smaller = OutcomeEvent()
    clipped = []
    for field, value in event.ListFields():  # not all at once: a copy of the payloads takes time, too
        if field.name in _PAYLOADS:
            clipped.append(field.name)
        elif field.message_type is not None:
            getattr(smaller, field.name).CopyFrom(value)
        elif field.name == "tags":
            smaller.tags.extend(value)
        else:
            setattr(smaller, field.name, value)
    smaller.metadata.update({"clipped": clipped})
    if smaller.stack_trace:
        smaller.stack_trace = smaller.stack_trace[-_MAX_TRACE:]
    return smaller


def without_secrets(event: OutcomeEvent) -> OutcomeEvent:
    """The event as it may be stored: payloads and texts redacted. Done again, it changes nothing more."""
    clean = OutcomeEvent()
    clean.CopyFrom(event)
    for name in _PAYLOADS:
        if clean.HasField(name):
            payload = getattr(clean, name)
            payload.CopyFrom(as_struct(json_codec.struct_to_dict(payload)))
    for name, limit in _LIMITS.items():
        given = getattr(clean, name)
        if given and (text := recordable(given)) != given:
            setattr(clean, name, text[:limit])
    if clean.stack_trace and (text := recordable(clean.stack_trace)) != clean.stack_trace:
        clean.stack_trace = text[-_MAX_TRACE:]
    tags = [recordable(tag) for tag in clean.tags]
    if tags != list(clean.tags):
        clean.tags[:] = [tag[:_MAX_NAME] for tag in tags]
    return clean


def fit_to_record(event: OutcomeEvent) -> OutcomeEvent:
    """An event that others made, as it may be recorded: within bounds, its names put right, redacted."""
    named = OutcomeEvent()
    named.CopyFrom(within_bounds(event))
    put_names_right(named)
    clean = without_secrets(named)
    put_names_right(clean)  # of a name that had to be cut, blanks alone may be left
    return clean


def put_names_right(event: OutcomeEvent) -> None:
    """Makes the event's ids, names and tags such as the contract takes. Done again, it changes nothing.

    Identities as well, the same into the same: of an event that would be refused nothing would be left. An
    event_id or run_id without a character to keep becomes a new one.
    """
    for name in (*_NAME_LIMITS, "event_id", "parent_event_id"):
        given = getattr(event, name)
        if is_name(given):
            continue
        if text := clean_name(given):
            setattr(event, name, text)
        elif name in ("agent_name", "action_type"):
            setattr(event, name, UNNAMED)
        elif name in ("event_id", "run_id"):
            setattr(event, name, new_id())
        else:
            cast(Message, event).ClearField(name)
    if not all(map(is_name, event.tags)):
        event.tags[:] = [text for tag in event.tags if (text := clean_name(tag)) or not tag]


def as_struct(value: object) -> struct_pb2.Struct:
    """Anything as a redacted JSON object; what is not an object stands under `value`.

    Nested no deeper than JSON may be that comes in: what is recorded can be sent again.
    """
    return _Reader().struct(value)


class _Reader:
    """Looks at objects of others, and remembers which of them could not be read."""

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self.clipped: set[str] = set()
        self._name = "value"

    def text(self, name: str, value: object) -> str:
        """An object as text, redacted and no longer than the field `name` may be."""
        try:
            text = clip_text("" if value is None else str(value))
            limit = _LIMITS.get(name, _MAX_NAME)
            return recordable(text)[:limit] if name == _MESSAGE else recordable_name(text, limit)
        except Exception:
            self.failed.add(name)
            return UNREADABLE

    def tags(self, values: Iterable[object]) -> list[str]:
        """The tags that can be read."""
        try:
            return [text for value in islice(values, _MAX_TAGS) if (text := self.text("tags", value))]
        except Exception:
            self.failed.add("tags")
            return []

    def trace(self, error: BaseException) -> str:
        """Where an error came from; its end says most."""
        try:
            text = "".join(traceback.format_exception(error, limit=-_MAX_FRAMES))
            return recordable(clip_text(text, _MAX_TRACE, from_end=True))
        except Exception:
            self.failed.add("stack_trace")
            return UNREADABLE

    def payload(self, name: str, value: object) -> struct_pb2.Struct:
        """See as_struct; a part that cannot be read is UNREADABLE, or else the whole."""
        self._name = name
        try:
            clip = Clip()
            value = clip(value)
            if clip.left_out:
                self.clipped.add(name)
            return self.struct(value)
        except Exception:
            self.failed.add(name)
            return struct_pb2.Struct(fields={"value": struct_pb2.Value(string_value=UNREADABLE)})

    def struct(self, value: object) -> struct_pb2.Struct:
        """See as_struct."""
        shown = redact(value)
        if not isinstance(shown, dict):
            shown = {"value": redact(value, MAX_DEPTH - 1)}
        fields: Any = self._plain(shown)
        struct = struct_pb2.Struct()
        struct.update(fields)
        return struct

    def _plain(self, value: object) -> object:
        """What JSON can say: other things as their text, numbers that JSON has not as text too."""
        if isinstance(value, dict):
            return {self._part(key): self._plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        if isinstance(value, float):
            return value if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return _text(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < 2**53:
            return value
        if isinstance(value, datetime):
            return value.isoformat()
        return self._part(value)

    def _part(self, value: object) -> str:
        try:
            return recordable(clip_text(str(value)))
        except Exception:
            self.failed.add(self._name)
            return UNREADABLE


def recordable(text: str) -> str:
    """Text without secrets, as every store can hold it. Done again, it changes nothing more."""
    # Most short texts are ids of ours; their digits and hyphens would have to be looked at closely.
    if len(text) == 36 and _UUID.fullmatch(text) is not None:
        return text
    return redact_text(_text(text))


def recordable_name(text: str, limit: int = _MAX_NAME) -> str:
    """As `recordable`, as the contract takes names; empty if there is nothing to be seen."""
    return clean_name(recordable(clean_name(text))[:limit])


def _text(text: str) -> str:
    """Text as it can be recorded, whatever it was: U+FFFD for half a surrogate pair and for U+0000."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
