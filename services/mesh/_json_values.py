"""Values of the JSON dialect that need more than a look at their type: times, bytes, plain JSON, statuses.

`read_*` turn a JSON value into what a message's constructor takes and raise ValueError or another ordinary
exception on anything else; `write_*` do the reverse. What is wrong, and where, is found by `_json_faults`.
"""

import base64
import math
import re
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Any, Final

import grpc
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from services.mesh.holdable import FIRST_SECOND, LAST_SECOND, is_time
from services.mesh.json_limits import BASE64, DOUBLE_MAX, DURATION_MAX_S, FLOAT_MAX, PLAIN_DEPTH

# Integers beyond are not exact as doubles, so writing one without a fraction would feign precision.
_EXACT_INTEGER: Final = 2.0**53

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()
# RFC 3339, section 5.6, without leap seconds, which a Timestamp cannot hold.
_RFC_3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.(\d{1,9}))?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_BASE64: Final = re.compile(BASE64, re.ASCII)
_INTEGER_KEY: Final = re.compile(r"0|-?[1-9]\d*", re.ASCII)
_BOOLEAN_KEYS: Final = {"true": True, "false": False}

# 00:00: to 23:59:, so that writing a time needs one look-up and one format of the seconds.
_MINUTES: Final = tuple(f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(24 * 60))

_STATUS_NUMBERS: Final[Mapping[str, int]] = {code.name: code.value[0] for code in grpc.StatusCode}
_STATUS_NAMES: Final[Mapping[int, str]] = {number: name for name, number in _STATUS_NUMBERS.items()}


class Fault(ValueError):  # noqa: N818 - short, since generated code says it often
    """A value is not what its field holds. Never leaves the codec."""


def read_timestamp(text: str) -> dict[str, int]:
    """RFC 3339 with any offset and up to 9 digits of a second, as the fields of a Timestamp."""
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise Fault
    # RFC 3339 lets z be small, datetime does not.
    since = datetime.fromisoformat(text if text[-1] != "z" else text.upper()) - _EPOCH
    seconds = since.days * 86_400 + since.seconds
    if not FIRST_SECOND <= seconds <= LAST_SECOND:
        raise Fault
    fraction = match.group(1)
    if fraction is None:
        return {"seconds": seconds}
    # datetime cuts after the sixth digit.
    return {"seconds": seconds, "nanos": int(fraction.ljust(9, "0"))}


@lru_cache(maxsize=4096)
def _day(days: int) -> str:
    return date.fromordinal(days + _EPOCH_ORDINAL).isoformat() + "T"


def write_timestamp(timestamp: Any) -> str:
    """RFC 3339 with `Z` and the fewest of 0, 3, 6 or 9 digits. ValueError outside the years 1 to 9999."""
    seconds = timestamp.seconds
    nanos = timestamp.nanos
    if not is_time(timestamp):
        raise ValueError(f"a Timestamp of {seconds} s and {nanos} ns cannot be written as RFC 3339")
    days, second = divmod(seconds, 86_400)
    minute, second = divmod(second, 60)
    text = f"{_day(days)}{_MINUTES[minute]}{second:02d}"
    if nanos == 0:
        return text + "Z"
    if nanos % 1_000_000 == 0:
        return f"{text}.{nanos // 1_000_000:03d}Z"
    if nanos % 1_000 == 0:
        return f"{text}.{nanos // 1_000:06d}Z"
    return f"{text}.{nanos:09d}Z"


def read_duration(seconds: float) -> dict[str, int]:
    """Seconds as the fields of a Duration, rounded to nanoseconds."""
    if type(seconds) not in (int, float) or not -DURATION_MAX_S <= seconds <= DURATION_MAX_S:
        raise Fault
    whole = math.trunc(seconds)
    nanos = round((seconds - whole) * 1e9)
    carry = math.trunc(nanos / 1_000_000_000)
    return {"seconds": whole + carry, "nanos": nanos - carry * 1_000_000_000}


def write_duration(duration: Any) -> float:
    """Seconds as a double."""
    return float(duration.seconds + duration.nanos / 1e9)


def read_bytes(text: str) -> bytes:
    """Standard base64 with padding (RFC 4648, section 4)."""
    if _BASE64.fullmatch(text) is None:
        raise Fault
    return base64.b64decode(text)


def write_bytes(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def read_whole(number: object) -> int:
    """An integer that JSON may write with a fraction of zero (`4.0`), which a constructor refuses."""
    if type(number) is float and number.is_integer():
        return int(number)
    raise Fault


def read_integer_key(text: str) -> int:
    """A map key of an integer type: JSON has text only."""
    if _INTEGER_KEY.fullmatch(text) is None:
        raise Fault
    return int(text)


def read_boolean_key(text: str) -> bool:
    """A map key of type bool."""
    return _BOOLEAN_KEYS[text]


def write_boolean_key(key: bool) -> str:
    """The reverse of read_boolean_key."""
    return "true" if key else "false"


def write_float(number: float) -> float:
    """The double with the fewest digits that is still this 32-bit float: 0.1, not 0.10000000149011612."""
    if not math.isfinite(number):
        return number
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if abs(short) <= FLOAT_MAX and struct.unpack("f", struct.pack("f", short))[0] == number:
            return short
    short = float(f"{number:.9g}")
    return short if abs(short) <= FLOAT_MAX else number


def read_struct(value: object) -> struct_pb2.Struct:
    """A plain JSON object."""
    return _struct(value, PLAIN_DEPTH)


def read_list(value: object) -> struct_pb2.ListValue:
    """A plain JSON list."""
    return _list(value, PLAIN_DEPTH)


def read_value(value: object) -> struct_pb2.Value:
    """Any JSON value; `null` is a value here."""
    return struct_pb2.Value(**_value(value, PLAIN_DEPTH))


def _struct(value: object, depth: int) -> struct_pb2.Struct:
    if type(value) is not dict or depth == 0:
        raise Fault
    fields: dict[str, Any] = {key: _value(item, depth - 1) for key, item in value.items()}
    return struct_pb2.Struct(fields=fields)


def _list(value: object, depth: int) -> struct_pb2.ListValue:
    if type(value) is not list or depth == 0:
        raise Fault
    items: list[Any] = [_value(item, depth - 1) for item in value]
    return struct_pb2.ListValue(values=items)


def _value(value: object, depth: int) -> dict[str, Any]:
    kind = type(value)
    if kind is str:
        return {"string_value": value}
    if kind is float or kind is int:
        if not -DOUBLE_MAX <= value <= DOUBLE_MAX:  # type: ignore[operator]
            raise Fault
        return {"number_value": value}
    if kind is bool:
        return {"bool_value": value}
    if value is None:
        return {"null_value": 0}
    if kind is dict:
        return {"struct_value": _struct(value, depth)}
    return {"list_value": _list(value, depth)}


def write_struct(message: Any) -> dict[str, object]:
    """A plain JSON object, its keys in order, so that equal messages give equal text."""
    fields = message.fields
    return {key: write_value(fields[key]) for key in sorted(fields)}


def write_list(message: Any) -> list[object]:
    """A plain JSON list."""
    return [write_value(item) for item in message.values]


def write_value(message: Any) -> object:
    """A plain JSON value; whole numbers without a fraction. A Value without content is null."""
    kind = message.WhichOneof("kind")
    match kind:
        case "number_value":
            number: float = message.number_value
            if (
                number.is_integer()
                and abs(number) < _EXACT_INTEGER
                and (number or math.copysign(1, number) > 0)
            ):
                return int(number)
            return number
        case "string_value" | "bool_value":
            return getattr(message, kind)
        case "struct_value":
            return write_struct(message.struct_value)
        case "list_value":
            return write_list(message.list_value)
        case _:
            return None


def read_status(value: dict[str, Any]) -> Message:
    """A google.rpc.Status in the words of the gateway's error body: code, message, reason, details."""
    if type(value) is not dict:
        raise Fault
    status = status_pb2.Status()
    for key, item in value.items():
        if item is None:
            continue
        match key:
            case "code":
                status.code = _STATUS_NUMBERS[item]
            case "message":
                status.message = item
            case "reason":
                if type(item) is not str:
                    raise Fault
                if item:
                    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=item, domain="waymesh"))
            case "details":
                if type(item) is not list:
                    raise Fault
                bad = error_details_pb2.BadRequest(
                    field_violations=[{"field": v["field"], "description": v["description"]} for v in item]
                )
                if item:
                    status.details.add().Pack(bad)
            case _:
                raise Fault
    return status  # type: ignore[no-any-return]


def write_status(status: Any) -> dict[str, object]:
    """Name of the code, message, reason (ErrorInfo), fields (BadRequest); other details are not for JSON."""
    reason = ""
    details: list[dict[str, str]] = []
    for packed in status.details:
        if packed.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            if packed.Unpack(info):
                reason = info.reason
        elif packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            if packed.Unpack(bad):
                details += [{"field": v.field, "description": v.description} for v in bad.field_violations]
    code = _STATUS_NAMES.get(status.code, "UNKNOWN")
    return {"code": code, "message": status.message, "reason": reason, "details": details}


# Full name of a message with a form of its own → (what it is in words, reader, writer).
WELL_KNOWN: Final[Mapping[str, tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    "google.protobuf.Timestamp": (
        "a time as in RFC 3339, such as 2024-08-28T10:30:00Z",
        read_timestamp,
        write_timestamp,
    ),
    "google.protobuf.Duration": ("a number of seconds", read_duration, write_duration),
    "google.protobuf.Struct": ("an object", read_struct, write_struct),
    "google.protobuf.ListValue": ("a list", read_list, write_list),
    "google.protobuf.Value": ("any JSON value", read_value, write_value),
    "google.rpc.Status": ("a status with code, message, reason and details", read_status, write_status),
}
