"""Says what is wrong with a JSON value, field by field: the slow way, taken once the fast one has failed."""

import difflib
import math
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message

from services.mesh import _json_values as values
from services.mesh._json_plan import Element, Field, Plan
from services.mesh.errors import MAX_VIOLATIONS, FieldViolation
from services.mesh.json_limits import DOUBLE_MAX, FLOAT_MAX, PLAIN_DEPTH

_SHOWN_CHARACTERS: Final = 40
_KEY_KINDS: Final[Mapping[str, str]] = {"integer": "a whole number", "boolean": "true or false"}


class _Enough(Exception):  # noqa: N818 - not an error
    """The cap is reached."""


class _Faults:
    def __init__(self, *, ignore_unknown: bool) -> None:
        self.ignore_unknown = ignore_unknown
        self.found: list[FieldViolation] = []

    def add(self, path: str, description: str) -> None:
        self.found.append(FieldViolation(path, description))
        if len(self.found) >= MAX_VIOLATIONS:
            raise _Enough

    def wrong(self, path: str, wanted: str, value: object) -> None:
        self.add(path, f"must be {wanted}, found {describe(value)}")

    def message(self, plan: Plan, value: object, path: str) -> None:
        if type(value) is not dict:
            self.wrong(path, "an object", value)
            return
        chosen: dict[str, str] = {}
        for name, item in value.items():
            field = plan.fields.get(name)
            if field is None:
                if not self.ignore_unknown:
                    self.add(_join(path, name), _unknown(name, plan))
            elif item is not None or field.element.known == "google.protobuf.Value":
                at = _join(path, name)
                first = chosen.setdefault(field.oneof, name) if field.oneof else name
                if first != name:
                    self.add(at, f"must not be set together with {first}")
                self.field(field, item, at)

    def field(self, field: Field, value: object, path: str) -> None:
        if field.shape == "one":
            self.element(field.element, value, path)
        elif field.shape == "list":
            if type(value) is not list:
                self.wrong(path, "a list", value)
                return
            for place, item in enumerate(value):
                self.element(field.element, item, f"{path}[{place}]")
        else:
            if type(value) is not dict:
                self.wrong(path, "an object", value)
                return
            for name, item in value.items():
                at = f'{path}["{_shown(name)}"]'
                self.key(field.key, name, at)
                self.element(field.element, item, at)

    def key(self, key: Element | None, name: object, path: str) -> None:
        if key is None or key.kind == "text":
            self.text(name, path, "a name")
            return
        try:
            number = values.read_boolean_key(name) if key.kind == "boolean" else values.read_integer_key(name)  # type: ignore[arg-type]
        except (ValueError, TypeError, KeyError):
            self.add(path, f"its name must be {_KEY_KINDS[key.kind]}")
            return
        if key.kind == "integer" and not key.low <= number <= key.high:
            self.add(path, f"its name must be a whole number from {key.low} to {key.high}")

    def text(self, value: object, path: str, wanted: str = "text") -> None:
        if type(value) is not str:
            self.wrong(path, wanted, value)
            return
        try:
            value.encode()
        except UnicodeEncodeError:
            self.add(path, "must be text of whole characters, found half of a surrogate pair")

    def element(self, element: Element, value: object, path: str) -> None:
        match element.kind:
            case "text":
                self.text(value, path)
            case "boolean":
                if type(value) is not bool:
                    self.wrong(path, "true or false", value)
            case "integer":
                self.integer(element, value, path)
            case "double":
                self.number(value, path, DOUBLE_MAX, "a number")
            case "float":
                self.number(value, path, FLOAT_MAX, "a number of 32 bits")
            case "bytes":
                if not _reads(values.read_bytes, value):
                    self.wrong(path, "base64 text", value)
            case "enum" if element.enum is not None:
                if type(value) is not str or value not in element.enum.reading:
                    self.wrong(path, "one of " + ", ".join(element.enum.reading), value)
            case "message" if element.message is not None:
                self.message(element.message, value, path)
            case _:
                self.known(element.known, value, path)

    def integer(self, element: Element, value: object, path: str) -> None:
        whole = type(value) is int or (type(value) is float and value.is_integer())
        if not whole or not element.low <= value <= element.high:  # type: ignore[operator]
            self.wrong(path, f"a whole number from {element.low} to {element.high}", value)

    def number(self, value: object, path: str, limit: float, wanted: str) -> None:
        if type(value) not in (int, float):
            self.wrong(path, wanted, value)
        elif not -limit <= value <= limit:  # type: ignore[operator]
            self.wrong(path, f"{wanted} between {-limit:.4g} and {limit:.4g}", value)

    def known(self, name: str, value: object, path: str) -> None:
        wanted, read, _ = values.WELL_KNOWN[name]
        match name:
            case "google.protobuf.Struct" | "google.protobuf.ListValue" | "google.protobuf.Value":
                kind = {"google.protobuf.Struct": dict, "google.protobuf.ListValue": list}.get(name)
                if kind is not None and type(value) is not kind:
                    self.wrong(path, wanted, value)
                else:
                    self.plain(value, path, PLAIN_DEPTH)
            case _:
                if not _reads(read, value):
                    self.wrong(path, wanted, value)

    def plain(self, value: object, path: str, depth: int) -> None:
        if isinstance(value, dict | list) and depth == 0:
            self.add(path, f"must not be nested deeper than {PLAIN_DEPTH} levels")
        elif type(value) is dict:
            for name, item in value.items():
                at = _join(path, name)
                self.text(name, at, "a name")
                self.plain(item, at, depth - 1)
        elif type(value) is list:
            for place, item in enumerate(value):
                self.plain(item, f"{path}[{place}]", depth - 1)
        elif type(value) is str:
            self.text(value, path)
        elif type(value) in (int, float):
            self.number(value, path, DOUBLE_MAX, "a number")
        elif value is not None and type(value) is not bool:
            self.wrong(path, "a JSON value", value)


def explain(plan: Plan, value: object, path: str, *, ignore_unknown: bool) -> list[FieldViolation]:
    """All that is wrong with `value` as a message of this plan, in its own order, at most MAX_VIOLATIONS."""
    faults = _Faults(ignore_unknown=ignore_unknown)
    try:
        faults.message(plan, value, path)
    except _Enough:
        pass
    except RecursionError:  # a message type that holds itself
        faults.found.append(FieldViolation(path, "must not be nested this deeply"))
    return faults.found


def describe(value: object) -> str:
    """A JSON value in few words; never more than a piece of it."""
    match value:
        case None:
            return "null"
        case True:
            return "true"
        case False:
            return "false"
        case dict():
            return "an object"
        case list():
            return "a list"
        case str():
            return f'text "{_shown(value)}"'
        case int() if value.bit_length() > 128:
            return "a number of many digits"
        case float() if not math.isfinite(value):
            return "a number too large for a double"
        case int() | float():
            return str(value)
        case Message():
            return "a message"
        case _:
            return type(value).__name__


def _unknown(name: object, plan: Plan) -> str:
    near = difflib.get_close_matches(str(name)[:100], plan.fields, n=1, cutoff=0.75)
    return f"is not a known field; did you mean {near[0]}?" if near else "is not a known field"


def _reads(read: object, value: object) -> bool:
    try:
        read(value)  # type: ignore[operator]
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return False
    return True


def _join(path: str, name: object) -> str:
    shown = _shown(name)
    return f"{path}.{shown}" if path else shown


def _shown(text: object) -> str:
    """Text cut to a readable length, fit for UTF-8."""
    whole = str(text)
    cut = whole if len(whole) <= _SHOWN_CHARACTERS else whole[: _SHOWN_CHARACTERS - 1] + "…"
    return cut.encode("utf-8", "replace").decode()
