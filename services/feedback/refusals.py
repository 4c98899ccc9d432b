"""What the contract's rules cannot say: texts and times that the store, or JSON, has no place for."""

from collections.abc import Iterator, Sequence
from typing import Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.mesh.errors import FieldViolation, InvalidArgument

# The texts that become columns or keys of events; PostgreSQL has no place for U+0000 in them.
_STORED_TEXTS: Final = frozenset(
    {
        *("event_id", "run_id", "agent_name", "workflow_id"),
        *("outcome_id", "order_id", "driver_id"),
        *("signal_id", "source", "subject"),
    }
)
_TIMESTAMP: Final = Timestamp.DESCRIPTOR
# The years 1 to 9999, as Timestamp allows them, in seconds since 1970.
_FIRST_S: Final = -62_135_596_800
_LAST_S: Final = 253_402_300_799
_NANOS: Final = 10**9
# More say nothing new, and they travel in the trailing metadata.
_MOST: Final = 50


def faults_of(message: Message, path: str = "") -> Iterator[FieldViolation]:
    """What is wrong with the fields of a record or a request, each under its path from `path`."""
    prefix = f"{path}." if path else ""
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.name in _STORED_TEXTS and "\0" in value:
                yield FieldViolation(f"{prefix}{field.name}", "must not contain the character U+0000")
        elif field.message_type is _TIMESTAMP and not (
            _FIRST_S <= value.seconds <= _LAST_S and 0 <= value.nanos < _NANOS
        ):
            yield FieldViolation(f"{prefix}{field.name}", "must be within the years 1 to 9999")


def refuse(request: Message) -> None:
    """Raises InvalidArgument if a field of a request is wrong."""
    _raise_any(list(faults_of(request)))


def refuse_records(field: str, records: Sequence[Message]) -> None:
    """Raises InvalidArgument if a field of one of the records in this field of a request is wrong."""
    _raise_any([fault for n, record in enumerate(records) for fault in faults_of(record, f"{field}[{n}]")])


def _raise_any(faults: list[FieldViolation]) -> None:
    if faults:
        raise InvalidArgument(
            f"{faults[0].field}: {faults[0].description}",
            reason=ERROR_REASON_INVALID_FIELD,
            violations=faults[:_MOST],
        )
