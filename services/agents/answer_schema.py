"""Which JSON Schemas the answer of an agent may have.

A schema comes from a tenant, and every answer of a model is checked against it in a process that serves all
tenants. So only what is checked in bounded time, within the process, is taken: no remote reference, no
pattern (one of exponential cost is a line long), no schema that refers back to itself or is thousands when
its references are followed. What remains is what strict structured output can hold a model to, or what can
be made so.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from services.mesh.errors import FieldViolation

MAX_BYTES: Final = 32 * 1024
# A model's side allows 10 levels of objects; each is up to three levels of JSON, and definitions add some.
_MAX_DEPTH: Final = 28
# A definition that is referred to twice counts twice: so often it is looked at.
_MAX_UNFOLDED: Final = 2_000

_TYPES: Final = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
_DIALECTS: Final = frozenset(
    {
        "https://json-schema.org/draft/2020-12/schema",
        "http://json-schema.org/draft-07/schema#",
        "http://json-schema.org/draft-07/schema",
    }
)
_TEXTS: Final = frozenset({"title", "description", "format", "$comment"})
_COUNTS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
_NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_ANYTHING: Final = frozenset({"const", "default"})
_LISTS: Final = frozenset({"enum", "examples"})
_DEFINITIONS: Final = ("$defs", "definitions")
_OTHERS: Final = frozenset(
    {
        "$schema",
        "$ref",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "anyOf",
        "multipleOf",
    }
)
KEYWORDS: Final = _TEXTS | _COUNTS | _NUMBERS | _ANYTHING | _LISTS | _OTHERS | {*_DEFINITIONS}

# Without what one reader of a reference decodes and another does not.
_REFERENCE: Final = re.compile(r"#/(\$defs|definitions)/([A-Za-z0-9_.-]{1,128})")

Schema = Mapping[str, Any]


def faults(schema: Schema, path: str) -> list[FieldViolation]:
    """What is wrong with the schema of an answer, which stands at `path`; empty if nothing is."""
    size = len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_BYTES:
        return [FieldViolation(path, f"must be at most {MAX_BYTES} bytes as JSON, not {size}")]
    if _is_deeper(schema, _MAX_DEPTH):
        return [FieldViolation(path, f"must be nested at most {_MAX_DEPTH} levels")]
    found = list(_faults(schema, path, schema))
    if schema.get("type") != "object":
        found.insert(0, FieldViolation(f"{path}.type", 'must be "object": an answer is one'))
    if not found and (why := _too_much(schema)):
        found.append(FieldViolation(path, why))
    return found


def _faults(schema: Any, path: str, root: Schema) -> Iterator[FieldViolation]:
    if not isinstance(schema, dict):
        yield FieldViolation(path, "must be a schema, that is an object")
        return
    for keyword, value in schema.items():
        here = f"{path}.{keyword}"
        if keyword not in KEYWORDS:
            yield FieldViolation(here, f"is not taken; {_instead(keyword)}")
        elif keyword in _DEFINITIONS:
            if schema is not root:
                yield FieldViolation(here, "may only stand at the root")
            else:
                yield from _each(value, here, root)
        elif keyword == "properties":
            yield from _each(value, here, root)
        elif keyword == "items":
            yield from _faults(value, here, root)
        elif keyword == "anyOf":
            yield from _choice(value, here, root, at_root=schema is root)
        elif keyword == "additionalProperties":
            if not isinstance(value, bool):
                yield from _faults(value, here, root)
        else:
            wrong = _wrong(keyword, value, root)
            if wrong:
                yield FieldViolation(here, wrong)


def _each(value: Any, path: str, root: Schema) -> Iterator[FieldViolation]:
    if not isinstance(value, dict):
        yield FieldViolation(path, "must be an object of schemas")
        return
    for name, one in value.items():
        yield from _faults(one, f"{path}.{name}", root)


def _choice(value: Any, path: str, root: Schema, *, at_root: bool) -> Iterator[FieldViolation]:
    if at_root:
        yield FieldViolation(path, "may not stand at the root")
    elif not isinstance(value, Sequence) or isinstance(value, str) or not value:
        yield FieldViolation(path, "must be a list of schemas, at least one")
    else:
        for place, one in enumerate(value):
            yield from _faults(one, f"{path}[{place}]", root)


def _wrong(keyword: str, value: Any, root: Schema) -> str:
    """What is wrong with the value of a keyword that holds no schema; empty if nothing is."""
    if keyword == "$ref":
        return _wrong_reference(value, root)
    if keyword == "$schema":
        known = isinstance(value, str) and value in _DIALECTS
        return "" if known else f"must be one of {', '.join(sorted(_DIALECTS))}"
    if keyword == "type":
        return _wrong_type(value)
    if keyword in _TEXTS:
        return "" if isinstance(value, str) else "must be text"
    if keyword in _COUNTS:
        return (
            ""
            if _is_number(value) and value >= 0 and value == int(value)
            else "must be a whole number from 0"
        )
    if keyword in _NUMBERS:
        return "" if _is_number(value) else "must be a number"
    if keyword == "multipleOf":
        return "" if _is_number(value) and value > 0 else "must be a number above 0"
    if keyword == "required":
        return "" if _are_texts(value) else "must be a list of names, each once"
    if keyword in _LISTS:
        return "" if isinstance(value, list) and (value or keyword != "enum") else "must be a list"
    return ""


def _wrong_type(value: Any) -> str:
    given = [value] if isinstance(value, str) else value
    if _are_texts(given) and given and _TYPES.issuperset(given):
        return ""
    return f"must be of {', '.join(sorted(_TYPES))}"


def _wrong_reference(value: Any, root: Schema) -> str:
    if target(value, root) is not None:
        return ""
    return "must be # or name a definition of this schema, such as #/$defs/stop"


def target(reference: Any, root: Schema) -> Schema | None:
    """The schema that a reference means: the whole one, or one of its definitions. None for any other."""
    if reference == "#":
        return root
    match = _REFERENCE.fullmatch(reference) if isinstance(reference, str) else None
    if match is None:
        return None
    definitions = root.get(match[1])
    found = definitions.get(match[2]) if isinstance(definitions, dict) else None
    return found if isinstance(found, dict) else None


def _too_much(root: Schema) -> str:
    """Why checking an answer could go on for ever, or nearly so; empty if it could not."""
    known: dict[int, tuple[int, int]] = {}
    open_: set[int] = set()

    def unfolded(schema: Schema) -> tuple[int, int]:
        """How many schemas this one is, and how many levels deep, when all its references are followed."""
        if id(schema) in open_:
            raise _EndlessError("leads back to itself by its references")
        if id(schema) not in known:
            open_.add(id(schema))
            size, height = 1, 1
            for part in _parts(schema, root) if len(open_) <= _MAX_DEPTH else ():
                more, deeper = unfolded(part)
                size, height = size + more, max(height, deeper + 1)
                if size > _MAX_UNFOLDED:
                    raise _EndlessError(
                        f"is more than {_MAX_UNFOLDED} schemas when its references are followed"
                    )
            open_.discard(id(schema))
            known[id(schema)] = size, height
        size, height = known[id(schema)]
        if len(open_) + height > _MAX_DEPTH:
            raise _EndlessError(f"is more than {_MAX_DEPTH} levels deep when its references are followed")
        return size, height

    try:
        unfolded(root)
    except _EndlessError as error:
        return str(error)
    return ""


class _EndlessError(Exception):
    pass


def _parts(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The schemas that a value, or what it holds, is checked against besides."""
    referred = target(schema.get("$ref"), root)
    if referred is not None:
        yield referred
    yield from schema.get("anyOf", ())
    yield from schema.get("properties", {}).values()
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield schema[keyword]


def _instead(keyword: str) -> str:
    if keyword in {"oneOf", "allOf", "not", "if", "then", "else"}:
        return "say it with anyOf, or in one schema"
    if keyword in {"pattern", "patternProperties"}:
        return "say it with enum, format or the description"
    return f"known are {', '.join(sorted(KEYWORDS))}"


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    return any(_is_deeper(one, levels - 1) for one in (value.values() if isinstance(value, dict) else value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(one, str) for one in value)
        and len(set(value)) == len(value)
    )
