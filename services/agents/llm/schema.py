"""The shape of a structured answer: as the model is told, and as the answer is checked.

OpenAI's strict mode takes a part of JSON Schema: every property is required, objects take no others, and what
may be left out is null instead (https://platform.openai.com/docs/guides/structured-outputs). What that part
cannot say is left out of what the model is told; the answer is checked against the schema as it was given.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from services.agents.llm.kinds import CallError, ErrorKind
from services.agents.structs import checked
from services.mesh import json_codec
from services.mesh.errors import InvalidArgument

# Kept as they are in strict mode.
_PLAIN: Final = frozenset(
    (
        "type",
        "description",
        "title",
        "enum",
        "const",
        "$ref",
        "pattern",
        "format",
        "multipleOf",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "minItems",
        "maxItems",
    )
)
_MAX_DEPTH: Final = 64


class NotStrictError(Exception):
    """A schema that strict mode cannot say, such as an object with any names."""


class Shape:
    """One schema, ready for use. `asked`: what the model is told, with strict mode if `strict`.

    Raises ValueError for what is no schema.
    """

    __slots__ = ("_schema", "_validator", "asked", "strict")

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"not a JSON Schema: {error.json_path}") from None
        # A registry of its own: the usual one fetches what a $ref names from wherever it says.
        self._validator: Validator = kind(schema, registry=Registry())
        try:
            self.asked: Mapping[str, Any] = _strict(schema, 0)
            self.strict = schema.get("type") == "object"
        except NotStrictError:
            self.strict = False
        if not self.strict:
            self.asked = schema

    def read(self, text: str) -> Any:
        """The value of an answer. Raises MALFORMED or SCHEMA_VIOLATION."""
        try:
            value = json_codec.parse(text)
        except InvalidArgument:
            raise CallError(ErrorKind.MALFORMED, "the answer is not JSON") from None
        try:
            value = self._without_nulls(self._schema, value, 0)
            wrong = next(self._validator.iter_errors(value), None)
        except (Unresolvable, RecursionError):
            raise CallError(ErrorKind.SCHEMA_VIOLATION, "the answer cannot be checked") from None
        if wrong is not None:
            where = ".".join(str(part) for part in wrong.schema_path)[:128]
            raise CallError(ErrorKind.SCHEMA_VIOLATION, f"the answer breaks {where}")
        try:
            checked(value if isinstance(value, dict) else {"value": value})
        except InvalidArgument:
            raise CallError(ErrorKind.SCHEMA_VIOLATION, "the answer has what no message can hold") from None
        return value

    def _without_nulls(self, schema: Any, value: Any, depth: int) -> Any:
        """The value without the nulls that stand for properties left out."""
        if depth > _MAX_DEPTH or not isinstance(schema, Mapping):
            return value
        schema = self._resolved(schema)
        if isinstance(value, dict):
            for branch in _branches(schema):
                value = self._without_nulls(branch, value, depth + 1)
            properties = schema.get("properties")
            if not isinstance(properties, Mapping):
                return value
            required = schema.get("required", ())
            kept = {}
            for name, item in value.items():
                optional = name in properties and name not in required
                if item is None and optional and not self._takes_null(properties[name]):
                    continue
                kept[name] = self._without_nulls(properties.get(name), item, depth + 1)
            return kept
        if isinstance(value, list) and isinstance(items := schema.get("items"), Mapping):
            return [self._without_nulls(items, item, depth + 1) for item in value]
        return value

    def _takes_null(self, schema: Any) -> bool:
        return bool(self._validator.evolve(schema=schema).is_valid(None))

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a reference within the schema points to."""
        for _ in range(_MAX_DEPTH):
            ref = schema.get("$ref")
            if not isinstance(ref, str) or not ref.startswith("#"):
                break
            target: Any = self._schema
            for part in ref[1:].split("/")[1:]:
                part = part.replace("~1", "/").replace("~0", "~")
                target = target.get(part) if isinstance(target, Mapping) else None
            if not isinstance(target, Mapping):
                break
            schema = target
        return schema


def shape_of(schema: Mapping[str, Any]) -> Shape:
    """The shape of a schema, made once. Raises ValueError for what is no schema."""
    return _made(json.dumps(schema, separators=(",", ":")))


@lru_cache(maxsize=256)
def _made(text: str) -> Shape:
    return Shape(json.loads(text))


def _branches(schema: Mapping[str, Any]) -> list[Any]:
    return [branch for word in ("allOf", "anyOf", "oneOf") for branch in schema.get(word, ())]


def _strict(schema: Any, depth: int) -> dict[str, Any]:
    """The schema in the words of strict mode. Raises NotStrictError."""
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        raise NotStrictError
    told: dict[str, Any] = {word: schema[word] for word in schema if word in _PLAIN}
    for word in ("$defs", "definitions"):
        if word in schema:
            told[word] = {name: _strict(each, depth + 1) for name, each in schema[word].items()}
    branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if branches:
        told["anyOf"] = [_strict(branch, depth + 1) for branch in branches]
    if "allOf" in schema or "patternProperties" in schema or "prefixItems" in schema:
        raise NotStrictError
    if told.keys().isdisjoint(("type", "enum", "const", "$ref", "anyOf")) and "properties" not in schema:
        raise NotStrictError  # anything goes
    if "items" in schema:
        told["items"] = _strict(schema["items"], depth + 1)
    if schema.get("type") == "object" or "properties" in schema:
        if "properties" not in schema or schema.get("additionalProperties") not in (None, True, False):
            raise NotStrictError  # an object with any names
        required = schema.get("required", ())
        told["properties"] = {
            name: _strict(each, depth + 1) if name in required else _nullable(_strict(each, depth + 1))
            for name, each in schema["properties"].items()
        }
        told["required"] = list(schema["properties"])
        told["additionalProperties"] = False
    return told


def _nullable(told: dict[str, Any]) -> dict[str, Any]:
    kind = told.get("type")
    if kind is None or "const" in told:
        return {"anyOf": [told, {"type": "null"}]}
    kinds = [kind] if isinstance(kind, str) else list(kind)
    told = {**told, "type": kinds if "null" in kinds else [*kinds, "null"]}
    if "enum" in told and None not in told["enum"]:
        told["enum"] = [*told["enum"], None]
    return told
