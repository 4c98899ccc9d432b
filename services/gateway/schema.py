"""JSON Schema (2020-12, as OpenAPI 3.1 has it) of messages in the JSON dialect, from descriptors and rules.

A request's schema is never stricter than the gateway and the service behind it: what it refuses, they refuse.
They refuse more: a rule across fields (CEL) is told in words.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, OneofDescriptor

from services.mesh.json_codec import enum_texts
from services.mesh.json_limits import BASE64, DURATION_MAX_S, FLOAT_MAX, INTEGERS

Schema = dict[str, Any]
# A request may leave out more than a response does, and says null for what it leaves out.
Mode = Literal["request", "response"]

FD: Final = FieldDescriptor
_NUMBER_RULES: Final[Mapping[int, str]] = {
    FD.TYPE_DOUBLE: "double",
    FD.TYPE_FLOAT: "float",
    FD.TYPE_INT32: "int32",
    FD.TYPE_SINT32: "sint32",
    FD.TYPE_SFIXED32: "sfixed32",
    FD.TYPE_UINT32: "uint32",
    FD.TYPE_FIXED32: "fixed32",
}
STATUS: Final[Schema] = {
    "type": "object",
    "description": "Why there is no result, in the words of an error of the gateway.",
    "properties": {
        "code": {"type": "string", "description": "Name of the gRPC code, such as NOT_FOUND."},
        "message": {"type": "string"},
        "reason": {"type": "string", "description": "Such as ORDER_UNKNOWN; empty if there is none."},
        "details": {"type": "array", "items": {"$ref": "#/components/schemas/Violation"}},
    },
}
# A pattern that has words of its own for people.
_MATCHES: Final = re.compile(r"this\.matches\('([^'\\]*)'\)")
_KNOWN: Final[Mapping[str, Schema]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {
        "type": "number",
        "description": "Seconds.",
        "minimum": -DURATION_MAX_S,
        "maximum": DURATION_MAX_S,
    },
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Value": {},
    "google.rpc.Status": STATUS,
}


class Schemas:
    """Makes schemas and keeps those of messages as components.

    `comments` are what the contracts say of messages and fields, by full name.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments
        self._names: dict[tuple[str, Mode], str] = {}

    def message(self, descriptor: Descriptor, mode: Mode) -> Schema:
        """A reference to the component for a message."""
        key = (descriptor.full_name, mode)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = self._free_name(descriptor, mode)
            self.components[name] = {}  # a message may hold itself
            self.components[name] = self._object(descriptor, mode)
        return {"$ref": f"#/components/schemas/{name}"}

    def may_be_empty(self, descriptor: Descriptor) -> bool:
        """Whether the rules let an empty message pass, as far as a schema knows."""
        return not any(_needed(field) for field in descriptor.fields) and not _needed_oneofs(descriptor)

    def rest(self, descriptor: Descriptor, *, without: Collection[str]) -> tuple[Schema, bool]:
        """What is left of a request when something else fills these fields, and whether it is needed."""
        schema = self._object(descriptor, "request", without)
        needed = "required" in schema or bool(_needed_oneofs(descriptor))
        return (schema, True) if needed else (_nullable(schema), False)

    def field(self, field: FieldDescriptor, mode: Mode) -> Schema:
        """The value of a field; of one that a request need not have, null too."""
        return self._field(field, mode)

    def parameter(self, field: FieldDescriptor) -> Schema:
        """A value that is not in the body: its schema and what is said of it."""
        rules = _rules(field)
        if field.is_repeated:
            schema = {"type": "array", "items": self._value(field, rules.repeated.items, "request")}
            _bounds(schema, rules.repeated, {"min_items": "minItems", "max_items": "maxItems"})
        else:
            schema = self._value(field, rules, "request")
        comment = self._comments.get(field.full_name)
        return {"schema": schema, **({"description": comment} if comment else {})}

    def needs(self, field: FieldDescriptor) -> bool:
        """Whether a request without the field is refused, as far as a schema knows."""
        return _needed(field)

    def _free_name(self, descriptor: Descriptor, mode: Mode) -> str:
        name = descriptor.name if mode == "request" else f"{descriptor.name}Out"
        package = descriptor.full_name.split(".")
        return name if name not in self.components else "".join(part.title() for part in package[1:-1]) + name

    def _object(self, descriptor: Descriptor, mode: Mode, without: Collection[str] = ()) -> Schema:
        fields = [field for field in descriptor.fields if field.name not in without]
        properties = {field.name: self._field(field, mode) for field in fields}
        schema: Schema = {"type": "object", "properties": properties}
        said = [self._comments.get(descriptor.full_name, "")]
        if mode == "response":
            required = [field.name for field in fields if not field.has_presence]
        else:
            schema["additionalProperties"] = False
            required = [field.name for field in fields if _needed(field)]
            rules = descriptor.GetOptions().Extensions[validate_pb2.message]
            said += [f"{rule.message}." for rule in rules.cel if rule.message]
            choices = [each for oneof in descriptor.oneofs for each in _choice(oneof)]
            if choices:
                schema["allOf"] = choices
        if required:
            schema["required"] = required
        if any(said):
            schema["description"] = " ".join(filter(None, said))
        return schema

    def _field(self, field: FieldDescriptor, mode: Mode) -> Schema:
        rules = _rules(field)
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            schema = self._map(entry, rules, mode)
        elif field.is_repeated:
            schema = {"type": "array", "items": self._value(field, rules.repeated.items, mode)}
            _bounds(schema, rules.repeated, {"min_items": "minItems", "max_items": "maxItems"})
            if rules.repeated.unique:
                schema["uniqueItems"] = True
        else:
            schema = self._value(field, rules, mode)
        if mode == "request" and not _needed(field):
            schema = _nullable(schema)
        comment = self._comments.get(field.full_name)
        return {**schema, "description": comment} if comment else schema

    def _map(self, entry: Descriptor, rules: validate_pb2.FieldRules, mode: Mode) -> Schema:
        key = entry.fields_by_name["key"]
        schema: Schema = {
            "type": "object",
            "additionalProperties": self._value(entry.fields_by_name["value"], rules.map.values, mode),
        }
        if key.type == FD.TYPE_STRING:
            names = self._value(key, rules.map.keys, mode)
            if len(names) > 1:
                schema["propertyNames"] = names
        _bounds(schema, rules.map, {"min_pairs": "minProperties", "max_pairs": "maxProperties"})
        return schema

    def _value(self, field: FieldDescriptor, rules: validate_pb2.FieldRules, mode: Mode) -> Schema:
        """One value: of a field, of a list, of a map."""
        if field.enum_type is not None:
            texts = enum_texts(field.enum_type)
            refused = set(rules.enum.not_in) if mode == "request" else set()
            return {"type": "string", "enum": [text for text, n in texts.items() if n not in refused]}
        if field.message_type is not None:
            known = _KNOWN.get(field.message_type.full_name)
            return dict(known) if known is not None else self.message(field.message_type, mode)
        if field.type == FD.TYPE_STRING:
            return _text(rules, mode)
        if field.type == FD.TYPE_BOOL:
            return {"type": "boolean"}
        if field.type == FD.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64", "pattern": f"^{BASE64}$"}
        return _number(field.type, rules, mode)


def _rules(field: FieldDescriptor) -> validate_pb2.FieldRules:
    return field.GetOptions().Extensions[validate_pb2.field]


def _text(of_field: validate_pb2.FieldRules, mode: Mode) -> Schema:
    schema: Schema = {"type": "string"}
    if mode == "request":
        rules: Any = of_field.string
        _bounds(schema, rules, {"min_len": "minLength", "max_len": "maxLength", "const": "const"})
        pattern = _pattern(of_field)
        if pattern:
            schema["pattern"] = pattern
        if rules.HasField("len"):
            schema["minLength"] = schema["maxLength"] = rules.len
        if getattr(rules, "in"):
            schema["enum"] = list(getattr(rules, "in"))
    return schema


def _pattern(rules: validate_pb2.FieldRules) -> str:
    """What a text has to match; empty if nothing."""
    found = (_MATCHES.fullmatch(rule.expression) for rule in rules.cel)
    return rules.string.pattern or next((match[1] for match in found if match), "")


def _number(kind: int, rules: Any, mode: Mode) -> Schema:
    schema: Schema = {"type": "number"}
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        schema = {"type": "integer", "minimum": low, "maximum": high}
    elif kind == FD.TYPE_FLOAT:
        schema |= {"minimum": -FLOAT_MAX, "maximum": FLOAT_MAX}
    if mode == "request":
        names = {"gt": "exclusiveMinimum", "gte": "minimum", "lt": "exclusiveMaximum", "lte": "maximum"}
        _bounds(schema, getattr(rules, _NUMBER_RULES[kind]), {**names, "const": "const"})
        if "exclusiveMinimum" in schema:
            schema.pop("minimum", None)
        if "exclusiveMaximum" in schema:
            schema.pop("maximum", None)
    return schema


def _bounds(schema: Schema, rules: Any, names: Mapping[str, str]) -> None:
    for rule, keyword in names.items():
        if rules.HasField(rule):
            schema[keyword] = getattr(rules, rule)


def _needed(field: FieldDescriptor) -> bool:
    """Whether a request without the field is refused: by `required`, or because zero breaks its own rules."""
    rules = _rules(field)
    if rules.required:
        return True
    if field.containing_oneof is not None or rules.ignore != validate_pb2.IGNORE_UNSPECIFIED:
        return False
    if field.is_repeated:
        return bool(rules.repeated.min_items or rules.map.min_pairs)
    if field.has_presence:
        return False
    if field.enum_type is not None:
        return 0 in rules.enum.not_in
    if field.type == FD.TYPE_STRING:
        text = rules.string
        refused = re.search(_pattern(rules), "") is None
        return bool(text.min_len or text.len or text.const or refused)
    name = _NUMBER_RULES.get(field.type)
    if name is None:
        return False
    return _refuses_zero(getattr(rules, name))


def _real(oneof: OneofDescriptor) -> bool:
    """Not the oneof of one member that `optional` is."""
    return len(oneof.fields) > 1


def _needed_oneofs(descriptor: Descriptor) -> list[OneofDescriptor]:
    return [
        oneof
        for oneof in descriptor.oneofs
        if _real(oneof) and oneof.GetOptions().Extensions[validate_pb2.oneof].required
    ]


def _choice(oneof: OneofDescriptor) -> list[Schema]:
    """At most one member, or exactly one, is there; null is not there."""
    if not _real(oneof):
        return []
    present = [
        {"required": [field.name], "properties": {field.name: {"not": {"type": "null"}}}}
        for field in oneof.fields
    ]
    pairs = [
        {"not": {"allOf": [first, second]}}
        for place, first in enumerate(present)
        for second in present[place + 1 :]
    ]
    needed = oneof.GetOptions().Extensions[validate_pb2.oneof].required
    return [*pairs, {"anyOf": present}] if needed else pairs


def example(descriptor: Any) -> dict[str, Any]:
    """A request that keeps the rules: what is needed, or where nothing is, names of things."""
    plain = [field for field in descriptor.fields if not field.has_presence and not field.is_repeated]
    # A name beside what is needed may not go with it: an order that is placed has no courier yet.
    chosen = [field for field in descriptor.fields if _needed(field)] or [
        field for field in plain if field.name.endswith("_id")
    ]
    # A place has nothing that is needed, but 0° 0° said aloud is better than an empty object.
    return {
        field.name: _example(field) for field in chosen or plain if chosen or field.name in ("lat", "lon")
    }


def _example(field: FieldDescriptor) -> Any:
    rules = _rules(field)
    if field.is_repeated:
        return [_sample(field, rules.repeated.items)]
    return _sample(field, rules)


def _sample(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Any:
    if field.enum_type is not None:
        return next(text for text, n in enum_texts(field.enum_type).items() if n not in rules.enum.not_in)
    if field.message_type is not None:
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return "2024-08-28T10:30:00Z"
        return {} if field.message_type.full_name in _KNOWN else example(field.message_type)
    if field.type == FD.TYPE_STRING:
        # The contract gives one where not any text will do.
        for given in rules.string.example:
            return given
        return f"{field.name.removesuffix('_ids').removesuffix('_id')}_1"
    number = getattr(rules, _NUMBER_RULES.get(field.type, ""), None)
    return 1 if number is not None and _refuses_zero(number) else 0


def _refuses_zero(number: Any) -> bool:
    return bool(
        (number.HasField("gte") and number.gte > 0)
        or (number.HasField("gt") and number.gt >= 0)
        or (number.HasField("lte") and number.lte < 0)
        or (number.HasField("lt") and number.lt <= 0)
    )


def _nullable(schema: Schema) -> Schema:
    """The same, or null, which is read as absent."""
    if not schema:
        return schema
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    schema = {**schema, "type": [schema["type"], "null"]}
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema
