"""The one JSON dialect of Waymesh, between bytes and messages, for HTTP and topics.

Driven by descriptors and compiled once per message type (see `_json_plan`). Not proto3 JSON:

- names as in the contract (snake_case); values of enums without their prefix, in lower case;
- times as RFC 3339, written with `Z`; durations as a double, in seconds unless the field's name says more;
- scalars, lists and maps are always written, unset optional and message fields left out; `null` is read as
  absent (only in a google.protobuf.Value is it a value);
- google.protobuf.Struct is plain JSON, whole numbers without a fraction, nested at most 28 levels;
- bytes as base64; google.rpc.Status as `{code, message, reason, details}`, like an error of the gateway;
- an unknown field is refused or ignored, as the caller says; of a name that comes twice the last one counts;
- `unspecified` is refused where the contract's rules refuse it; the value of an enum that has no name here
  (sent by a newer peer) is written as its number;
- refused besides: NaN and Infinity, numbers a double cannot hold, text with U+0000 (PostgreSQL has no place
  for it) or with half a surrogate pair, anything but UTF-8.

All that is wrong with a body is told at once, up to 50 fields, in an InvalidArgument.
"""

import json
from collections.abc import Iterator, Sequence
from json.encoder import c_make_encoder, encode_basestring  # type: ignore[attr-defined]
from typing import Any, Final, Literal, NoReturn, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD, ERROR_REASON_MALFORMED_BODY

from services.mesh._json_faults import describe, explain
from services.mesh._json_pieces import List, lists_of
from services.mesh._json_pieces import pieces as pieces_of
from services.mesh._json_plan import Plan, UnsupportedContractError, enum_texts, plan_of
from services.mesh._json_values import write_struct
from services.mesh.errors import MAX_VIOLATIONS, FieldViolation, InvalidArgument

__all__ = [
    "MAX_VIOLATIONS",
    "List",
    "UnsupportedContractError",
    "decode",
    "describe",
    "dumps",
    "encode",
    "enum_texts",
    "from_dict",
    "invalid_fields",
    "is_long",
    "lists",
    "parse",
    "pieces",
    "struct_to_dict",
    "to_dict",
]

M = TypeVar("M", bound=Message)
Unknown = Literal["reject", "ignore"]

# What a constructor or a reader may raise when a value is not what its field holds.
_WRONG: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
_WHITESPACE: Final = " \t\n\r"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_other(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no form in JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)
# The scanner in C that JSONDecoder wraps; typeshed does not know it.
_scan: Final = _decoder.scan_once  # type: ignore[attr-defined]
# What JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False) makes anew for every call.
_dump: Final = c_make_encoder(None, _no_other, encode_basestring, None, ":", ",", False, False, False)


def parse(data: bytes | str, path: str = "") -> Any:
    """The JSON value in `data`. Raises InvalidArgument (MALFORMED_BODY) that says where it fails."""
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(path, f"the body is not UTF-8 at byte {error.start}") from None
    try:
        try:
            value, end = _scan(text, 0)
        except StopIteration:  # white space in front, or nothing at all
            value = _decoder.decode(text)
        else:
            if end != len(text) and text[end:].strip(_WHITESPACE):
                value = _decoder.decode(text)  # says what is too much
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise _malformed(path, f"the body is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise _malformed(path, "the body is nested too deeply") from None
    except ValueError as error:
        # NaN and Infinity; or int() refusing thousands of digits, whose text speaks of Python.
        words = str(error) if str(error).endswith("is not JSON") else "a number has too many digits"
        raise _malformed(path, f"the body is not JSON: {words}") from None
    if "\\u0000" in text:
        _refuse_nul(value, path)
    return value


def decode(
    kind: type[M] | Descriptor, data: bytes | str, *, unknown: Unknown = "reject", path: str = ""
) -> M:
    """A message from JSON text. `path` is where the text stands in the body, for the violations.

    Raises InvalidArgument: MALFORMED_BODY if it is no JSON, INVALID_FIELD with all violations otherwise.
    """
    return from_dict(kind, parse(data, path), unknown=unknown, path=path)


def from_dict(kind: type[M] | Descriptor, obj: object, *, unknown: Unknown = "reject", path: str = "") -> M:
    """A message from what a JSON parser made (dict, list, str, int, float, bool, None), which stays as it is.

    Raises InvalidArgument (INVALID_FIELD) with all violations.
    """
    plan = plan_of(kind)
    read = plan.read_strict if unknown == "reject" else plan.read_lenient
    try:
        return cast(M, plan.cls(**read(obj)))
    except _WRONG:
        raise _explained(plan, obj, path, unknown) from None


def to_dict(message: Message) -> dict[str, Any]:
    """The message as a dict that a JSON encoder writes as it stands.

    ValueError for a Timestamp outside the years 1 to 9999. NaN and infinities stay; `encode` refuses them.
    """
    return plan_of(type(message)).write(message)


def struct_to_dict(struct: Struct) -> dict[str, object]:
    """A free-form payload by itself, as it is written where it is a field."""
    return write_struct(struct)


def encode(message: Message) -> bytes:
    """The message as JSON, UTF-8, without white space. ValueError for NaN and infinities."""
    return dumps(plan_of(type(message)).write(message))


def lists(descriptor: Descriptor) -> tuple[List, ...]:
    """The lists of a message type, for `is_long`."""
    return lists_of(descriptor)


def is_long(message: Message, lists: Sequence[List]) -> bool:
    """Whether one of its lists is so long that `encode` would keep all else waiting for milliseconds."""
    return any(len(getattr(message, each.name)) > each.limit for each in lists)


def pieces(message: Message) -> Iterator[bytes]:
    """What `encode` gives, in pieces of which none takes long. The message must not change meanwhile."""
    for piece in pieces_of(plan_of(type(message)), message, _text):
        yield piece.encode()


def dumps(value: object) -> bytes:
    """Any value of plain JSON as the codec writes it. ValueError for NaN and infinities."""
    return _text(value).encode()


def _text(value: object) -> str:
    return "".join(_dump(value, 0))


def invalid_fields(violations: list[FieldViolation], whole: str = "the body") -> InvalidArgument:
    """The error for violations, at least one; `whole` is what one without a field is about."""
    first = violations[0]
    text = f"{first.field or whole} {first.description}"
    if len(violations) > 1:
        count = "at least 50" if len(violations) >= MAX_VIOLATIONS else str(len(violations))
        text = f"{count} fields are wrong; {text}"
    return InvalidArgument(text, reason=ERROR_REASON_INVALID_FIELD, violations=violations)


def _explained(plan: Plan, obj: object, path: str, unknown: Unknown) -> InvalidArgument:
    violations = explain(plan, obj, path, ignore_unknown=unknown == "ignore")
    if not violations:  # the explanation knows less than the constructor; the answer is the same
        violations = [FieldViolation(path, f"cannot be read as {plan.descriptor.name}")]
    return invalid_fields(violations)


def _malformed(path: str, message: str) -> InvalidArgument:
    return InvalidArgument(
        message, reason=ERROR_REASON_MALFORMED_BODY, violations=[FieldViolation(path, message)]
    )


def _refuse_nul(value: object, path: str) -> None:
    """Raises if a text or a name in `value` holds U+0000; not recursive, since depth is not yet bounded."""
    open_: list[tuple[str, object]] = [(path, value)]
    violations: list[FieldViolation] = []
    while open_ and len(violations) < MAX_VIOLATIONS:
        at, item = open_.pop()
        if isinstance(item, str):
            if "\0" in item:
                violations.append(FieldViolation(at, "must not contain the character U+0000"))
        elif isinstance(item, list):
            open_ += [(f"{at}[{place}]", each) for place, each in enumerate(item)]
        elif isinstance(item, dict):
            for name, each in item.items():
                shown = name.replace("\0", "\\u0000")
                below = f"{at}.{shown}" if at else shown
                if shown != name:
                    violations.append(FieldViolation(below, "its name must not contain the character U+0000"))
                open_.append((below, each))
    if violations:
        raise invalid_fields(violations[:MAX_VIOLATIONS])
