"""Tells an everyday outcome at a glance: one that keeps the contract and has nothing that could be a secret.

Most are such, and looking closely (every rule of the contract, every payload taken apart and put together
again) costs ten times as much. What is not plain may be good all the same: whoever asks looks closely then.
"""

from functools import lru_cache
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.feedback.names import is_name
from services.mesh.feedback.outcome import recordable
from services.mesh.holdable import is_time
from services.mesh.redact import COUNT_LIMIT, is_clean_text, may_name_secret
from services.mesh.secret_names import Naming, naming
from services.mesh.secret_pairs import NAMING_KEYS

_NAME: Final = 128
_ERROR_TYPE: Final = 256
_MESSAGE: Final = 8_192
_TRACE: Final = 65_536
_MAX_TAGS: Final = 64
_MAX_EVENTS: Final = 1_000
_UUID: Final = 36
# Payloads nested more deeply are looked at closely. So are numbers that JSON readers may not hold exactly.
_DEPTH: Final = 8
_WHOLE: Final = 2.0**53
_HOLDERS: Final = frozenset({"struct_value", "list_value"})
# The contract's bounds.
_MOST_MS: Final = 1e12
_MOST_COST: Final = 1e9


def is_plain(event: OutcomeEvent) -> bool:
    """Whether the contract is kept and redaction changes nothing, for certain."""
    return (
        _named(event.agent_name)
        and _named(event.action_type)
        and 0 < len(event.event_id) <= _NAME
        and is_name(event.event_id)
        and 0 < len(event.run_id) <= _NAME
        and is_name(event.run_id)
        and _clean(event.run_id)
        and 1 <= event.status <= 5
        and 1 <= event.severity <= 4
        and 0 <= event.duration_ms <= _MOST_MS
        and 0 <= event.latency_ms <= _MOST_MS
        and 0 <= event.llm_latency_ms <= _MOST_MS
        and 0 <= event.cost_estimate <= _MOST_COST
        and _times(event)
        and _texts(event)
        and (not event.HasField("input") or _struct(event.input, _DEPTH))
        and (not event.HasField("output") or _struct(event.output, _DEPTH))
        and (not event.HasField("metadata") or _struct(event.metadata, _DEPTH))
    )


def are_plain(request: RecordOutcomesRequest) -> bool:
    """Whether a batch keeps the contract, for certain, since there is nothing but plain outcomes in it."""
    return 0 < len(request.events) <= _MAX_EVENTS and all(map(is_plain, request.events))


def _times(event: OutcomeEvent) -> bool:
    if not (event.HasField("timestamp") and is_time(event.timestamp)):
        return False
    if not event.HasField("start_time"):
        return not event.HasField("end_time") or is_time(event.end_time)
    start: Timestamp = event.start_time
    if not is_time(start):
        return False
    if not event.HasField("end_time"):
        return True
    end = event.end_time
    return is_time(end) and (start.seconds, start.nanos) <= (end.seconds, end.nanos)


def _texts(event: OutcomeEvent) -> bool:
    """What may be empty."""
    if event.agent_type and not _named(event.agent_type):
        return False
    for text, limit in (
        (event.correlation_id, _NAME),
        (event.workflow_id, _NAME),
        (event.error_type, _ERROR_TYPE),
    ):
        if text and not (len(text) <= limit and is_name(text) and _clean(text)):
            return False
    for text, limit in ((event.error_message, _MESSAGE), (event.stack_trace, _TRACE)):
        if text and not (len(text) <= limit and _clean(text)):
            return False
    parent = event.parent_event_id
    if len(parent) > _NAME or not is_name(parent):
        return False
    tags = event.tags
    return len(tags) <= _MAX_TAGS and all(map(_tag, tags))


def _clean(text: str) -> bool:
    if len(text) == _UUID:  # an id of ours, mostly
        return recordable(text) == text
    return is_clean_text(text) and "\0" not in text


def _struct(struct: Struct, depth: int) -> bool:
    if depth == 0:
        return False
    return all(
        (_key(name) or _odd_key(name, value)) and _value(value, depth)
        for name, value in struct.fields.items()
    )


def _value(value: Any, depth: int) -> bool:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return _clean(value.string_value)
    if kind == "number_value":
        return bool(-_WHOLE < value.number_value < _WHOLE)
    if kind == "struct_value":
        return _struct(value.struct_value, depth - 1)
    if kind == "list_value":
        values = value.list_value.values
        return depth > 1 and all(_value(one, depth - 1) for one in values) and not any(map(_names, values))
    return kind is not None  # a value without a kind is put right by redaction


# The same few names come again and again.
@lru_cache(maxsize=4096)
def _named(name: str) -> bool:
    return 0 < len(name) <= _NAME and is_name(name) and _clean(name)


@lru_cache(maxsize=4096)
def _tag(tag: str) -> bool:
    return len(tag) <= _NAME and is_name(tag) and _clean(tag)


@lru_cache(maxsize=4096)
def _key(name: str) -> bool:
    """Whether nothing that stands under this name is secret for its sake."""
    return (
        len(name) <= _NAME
        and _clean(name)
        and naming(name) is Naming.NOTHING
        and name.lower() not in NAMING_KEYS
    )


def _odd_key(name: str, value: Any) -> bool:
    """Whether a value is not secret for the sake of its name: a count, or what names no secret."""
    if name.lower() in NAMING_KEYS:
        return value.WhichOneof("kind") not in _HOLDERS and not _names(value)
    return (
        len(name) <= _NAME
        and naming(name) is Naming.COUNT
        and _clean(name)
        and value.WhichOneof("kind") == "number_value"
        and abs(value.number_value) < COUNT_LIMIT
    )


def _names(value: Any) -> bool:
    return value.WhichOneof("kind") == "string_value" and may_name_secret(value.string_value)
