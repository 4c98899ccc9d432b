"""What every message must keep, whatever its contract says: values that the mesh can hold.

A time must lie within the years 1 to 9999 (RFC 3339, and Python's datetime), a double must be a finite number
(JSON has no other), and text must not hold U+0000 (PostgreSQL cannot store it); gRPC carries all of them.
JSON of any form holds so many values at most: to look at megabytes of them takes seconds, in which nobody
else is answered.
What the contract leaves to the handler (`ignore: IGNORE_ALWAYS`) is left to it here too.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from math import isfinite
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.mesh.errors import MAX_VIOLATIONS, FieldViolation
from services.mesh.json_limits import PLAIN_VALUES

# First and last second of the years 1 to 9999, since 1970.
FIRST_SECOND: Final = -62_135_596_800
LAST_SECOND: Final = 253_402_300_799

TIME_FAULT: Final = "must be a time within the years 1 to 9999"
NUMBER_FAULT: Final = "must be a finite number"
TEXT_FAULT: Final = "must not hold the character U+0000"
PLAIN_FAULT: Final = f"must hold at most {PLAIN_VALUES:,} values"

_TIME: Final = "google.protobuf.Timestamp"
_PLAIN: Final = frozenset(f"google.protobuf.{kind}" for kind in ("Struct", "Value", "ListValue"))
# A value takes as many bytes at least.
_LEAST_BYTES: Final = 2

Judge = Callable[[Any], bool]


def faults(message: Message) -> list[FieldViolation]:
    """The values that cannot be held, at most 50, paths from the message's root."""
    return [] if holds(message) else list(islice(_faults(message, ""), MAX_VIOLATIONS))


def holds(message: Message) -> bool:
    """Whether there is no such value in the message."""
    # The walk is before every handler and over batches of a thousand: only fields that are set are looked at.
    for field, value in message.ListFields():
        judge = _judges.get(field)
        if judge is None:
            judge = _judges[field] = _judge_of(field)
        if not judge(value):
            return False
    return True


def is_time(stamp: Timestamp) -> bool:
    """Whether a Timestamp is one that RFC 3339 can write."""
    return FIRST_SECOND <= stamp.seconds <= LAST_SECOND and 0 <= stamp.nanos < 1_000_000_000


# How the value of a field is judged, by field; found out when it is first seen.
_judges: Final[dict[FieldDescriptor, Judge]] = {}


def _judge_of(field: FieldDescriptor) -> Judge:
    """Of the whole field: all items if it is repeated, keys and values if it is a map."""
    rules = field.GetOptions().Extensions[validate_pb2.field]
    if validate_pb2.IGNORE_ALWAYS in (rules.ignore, rules.repeated.items.ignore):
        return _anything
    entry = _entry_of(field)
    if entry is not None:
        key, value = map(_judge_of_one, entry.fields)
        return lambda entries: all(map(key, entries)) and all(map(value, entries.values()))
    one = _judge_of_one(field)
    if one is _anything or not field.is_repeated:
        return one
    return lambda items: all(map(one, items))


def _judge_of_one(field: FieldDescriptor) -> Judge:
    if field.type == field.TYPE_STRING:
        return _is_text
    if field.type in (field.TYPE_DOUBLE, field.TYPE_FLOAT):
        return isfinite
    if field.message_type is None:
        return _anything
    kind = field.message_type.full_name
    # Within them each is counted with the whole.
    holder = field.containing_type
    if kind in _PLAIN and holder is not None and not holder.full_name.startswith("google.protobuf."):
        return _holds_plain
    return is_time if kind == _TIME else holds


def _entry_of(field: FieldDescriptor) -> Descriptor | None:
    """The type of a map's entries; None if the field is no map."""
    held = field.message_type
    return held if held is not None and held.GetOptions().map_entry else None


def _anything(_value: Any) -> bool:
    return True


def _is_text(value: str) -> bool:
    return "\0" not in value


def _holds_plain(value: Any) -> bool:
    return _is_few(value) and holds(value)


def _is_few(value: Any) -> bool:
    """Whether a Struct, Value or ListValue has no more values than may be."""
    if value.ByteSize() <= _LEAST_BYTES * PLAIN_VALUES:
        return True
    found, open_ = 0, [value]
    while open_ and found <= PLAIN_VALUES:
        one = open_.pop()
        if isinstance(one, Value):
            kind = one.WhichOneof("kind")
            if kind in ("struct_value", "list_value"):
                open_.append(getattr(one, kind))
            continue
        inner = one.fields.values() if isinstance(one, Struct) else one.values
        found += len(inner)
        open_.extend(inner)
    return found <= PLAIN_VALUES


def _faults(message: Message, path: str) -> Iterator[FieldViolation]:
    for field, value in message.ListFields():
        if _judges.setdefault(field, _judge_of(field))(value):
            continue
        here = f"{path}.{field.name}" if path else field.name
        entry = _entry_of(field)
        if entry is not None:
            of_values = entry.fields_by_name["value"]
            for key, one in value.items():
                if isinstance(key, str) and not _is_text(key):
                    yield FieldViolation(here, f"each key {TEXT_FAULT}")
                else:
                    shown = f'"{key}"' if isinstance(key, str) else str(key)
                    yield from _faults_of_one(of_values, one, f"{here}[{shown}]")
        elif field.is_repeated:
            for place, one in enumerate(value):
                yield from _faults_of_one(field, one, f"{here}[{place}]")
        else:
            yield from _faults_of_one(field, value, here)


def _faults_of_one(field: FieldDescriptor, value: Any, path: str) -> Iterator[FieldViolation]:
    judge = _judge_of_one(field)
    if judge(value):
        return
    if judge is _holds_plain and not _is_few(value):
        yield FieldViolation(path, PLAIN_FAULT)
    elif judge in (holds, _holds_plain):
        yield from _faults(value, path)
    else:
        yield FieldViolation(path, _WORDS[judge])


_WORDS: Final[dict[Judge, str]] = {_is_text: TEXT_FAULT, isfinite: NUMBER_FAULT, is_time: TIME_FAULT}
