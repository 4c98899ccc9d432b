"""What a path and a query say, as the JSON dialect would: `page_size=10` as {"page_size": 10}."""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.gateway import bulk
from services.gateway.rest.binding import Binding, field_at
from services.mesh import json_codec
from services.mesh.errors import FieldViolation, InvalidArgument

_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_TRUTHS: Final[Mapping[str, bool]] = {"true": True, "false": False}
# Messages that are one value, and how they are read.
_KNOWN: Final[Mapping[str, str]] = {"google.protobuf.Timestamp": "text", "google.protobuf.Duration": "number"}
_FLOATS: Final = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
_SHOWN: Final = 40
# Messages within messages that a query can fill, as it is told in documents.
_DEPTH: Final = 4

Filled = dict[str, Any]


class Faults:
    """What is wrong with parameters. After as many as are told nothing more is looked at."""

    def __init__(self) -> None:
        self.found: list[FieldViolation] = []

    def add(self, name: str, description: str) -> None:
        """One more. Raises InvalidArgument if that is enough."""
        shown = name if len(name) <= _SHOWN else name[: _SHOWN - 1] + "…"
        self.found.append(FieldViolation(shown.encode("utf-8", "replace").decode(), description))
        if len(self.found) >= json_codec.MAX_VIOLATIONS:
            self.check()

    def check(self) -> None:
        """Raises InvalidArgument if there are any."""
        if self.found:
            raise json_codec.invalid_fields(self.found, "the request")


def read(binding: Binding, values: Collection[bytes], query: bytes) -> Filled:
    """What the path's `values` and the query fill of the request. Raises InvalidArgument by parameter."""
    request: Any = binding.request.DESCRIPTOR
    faults = Faults()
    filled: Filled = {}
    for name, raw in zip(binding.template.fields, values, strict=True):
        field = field_at(request, name)
        assert field is not None  # as the binding has made sure
        text = _decoded(raw, name, faults)
        if text is not None:
            _put(filled, name, _value(field, text, name, faults))
    if query:
        _read_query(filled, query, request, binding, faults)
    faults.check()
    return filled


def refuse_body(binding: Binding, body: bytes) -> None:
    """Raises InvalidArgument for a body where none is read: whoever sent it believes in what it says.

    An empty object says nothing.
    """
    try:
        said, _ = bulk.parse(body)
    except InvalidArgument:
        said = None
    faults = Faults()
    if type(said) is not dict:
        faults.add("", "must have no body: path and query say all that there is to say")
    else:
        known = [name for name, _ in of_query(binding)]
        for name in said:
            if name in binding.template.fields:
                faults.add(name, "is given by the path")
            elif any(each == name or each.startswith(f"{name}.") for each in known):
                faults.add(name, "must stand in the query: this path takes no body")
            else:
                faults.add(name, _unknown(name, binding))
    faults.check()


def put(filled: Filled, name: str, value: object) -> bool:
    """Sets what stands at `a.b.c`; False if something does already that is no place for it."""
    *outer, last = name.split(".")
    holder: Any = filled
    for each in outer:
        holder = holder.setdefault(each, {})
        if type(holder) is not dict:
            return False
    if last in holder:
        return False
    holder[last] = value
    return True


def leaves(filled: Filled, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value and where it stands."""
    for name, value in filled.items():
        if type(value) is dict:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def of_query(binding: Binding) -> Iterator[tuple[str, FieldDescriptor]]:
    """Parameters that a query may have: name and field."""
    if binding.body != "*":
        request: Any = binding.request.DESCRIPTOR
        yield from _fillable(request, "", _elsewhere(binding), _DEPTH, ())


def _fillable(
    message: Descriptor, prefix: str, elsewhere: Collection[str], depth: int, within: tuple[str, ...]
) -> Iterator[tuple[str, FieldDescriptor]]:
    within = (*within, message.full_name)
    for field in message.fields:
        name = prefix + field.name
        if name in elsewhere:
            continue
        inner = field.message_type
        if _kind(field):
            yield name, field
        elif inner is not None and _nests(field) and depth > 1 and inner.full_name not in within:
            yield from _fillable(inner, f"{name}.", elsewhere, depth - 1, within)


def _read_query(filled: Filled, query: bytes, request: Descriptor, binding: Binding, faults: Faults) -> None:
    elsewhere = _elsewhere(binding)
    for name, texts in _pairs(query, faults).items():
        field = None if _is_elsewhere(name, elsewhere) or binding.body == "*" else field_at(request, name)
        if field is None or not _kind(field):
            faults.add(name, _unknown(name, binding))
        elif field.is_repeated:
            _put(filled, name, [_value(field, text, name, faults) for text in texts])
        elif len(texts) > 1:
            faults.add(name, "must be given once")
        else:
            _put(filled, name, _value(field, texts[0], name, faults))


def _put(filled: Filled, name: str, value: object) -> None:
    put(filled, name, value)


def _pairs(query: bytes, faults: Faults) -> dict[str, list[str]]:
    """Names and their values, as forms write them: a plus sign is a blank."""
    found: dict[str, list[str]] = {}
    for pair in query.split(b"&"):
        if not pair:
            continue
        raw_name, _, raw = pair.replace(b"+", b" ").partition(b"=")
        name = _decoded(raw_name, "", faults)
        if name is not None:
            value = _decoded(raw, name, faults)
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def _decoded(raw: bytes, name: str, faults: Faults) -> str | None:
    try:
        text = (unquote_to_bytes(raw) if b"%" in raw else raw).decode()
    except UnicodeDecodeError:
        faults.add(name, "must be UTF-8" if name else "must have a query in UTF-8")
        return None
    if "\0" in text:
        faults.add(name.replace("\0", ""), "must not contain the character U+0000")
        return None
    return text


def _elsewhere(binding: Binding) -> frozenset[str]:
    """What path and body fill."""
    return frozenset(filter(None, (*binding.template.fields, binding.body)))


def _is_elsewhere(name: str, elsewhere: Collection[str]) -> bool:
    return name in elsewhere or any(name.startswith(f"{each}.") for each in elsewhere)


def _nests(field: FieldDescriptor) -> bool:
    """Whether the field holds fields: not JSON itself, nor an error, which no query says."""
    message = field.message_type
    return (
        message is not None
        and not field.is_repeated
        and not message.full_name.startswith(("google.protobuf.", "google.rpc."))
    )


def _kind(field: FieldDescriptor) -> str:
    """How one value is read: `text`, `number`, `whole`, `truth`; empty if a query cannot say it."""
    if field.message_type is not None:
        return "" if field.is_repeated else _KNOWN.get(field.message_type.full_name, "")
    if field.enum_type is not None or field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return "text"
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "truth"
    return "number" if field.type in _FLOATS else "whole"


def _value(field: FieldDescriptor, text: str, name: str, faults: Faults) -> object:
    """As JSON would say it. What is out of range is seen where JSON is read."""
    match _kind(field):
        case "whole" if _WHOLE.fullmatch(text):
            return int(text)
        case "whole":
            faults.add(name, "must be a whole number")
        case "number" if _NUMBER.fullmatch(text):
            return float(text)
        case "number":
            faults.add(name, "must be a number")
        case "truth" if text in _TRUTHS:
            return _TRUTHS[text]
        case "truth":
            faults.add(name, "must be true or false")
    return text


def _unknown(name: str, binding: Binding) -> str:
    known = [each for each, _ in of_query(binding)]
    near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.75)
    return f"is not a known parameter; did you mean {near[0]}?" if near else "is not a known parameter"
