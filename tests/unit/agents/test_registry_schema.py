"""Which schemas an answer may have: those that are checked in bounded time, and nowhere else."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.agents.answer_schema import KEYWORDS, MAX_BYTES, faults
from services.agents.builtin import BUILT_IN
from services.agents.llm.kinds import CallError
from services.agents.llm.schema import shape_of
from services.mesh.json_codec import struct_to_dict
from tests.examples import examples

TEXT: dict[str, Any] = {"type": "string"}


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **more}


def fields(schema: dict[str, Any]) -> list[str]:
    return [one.field for one in faults(schema, "s")]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        of({"a": TEXT}, required=["a"], additionalProperties=False, title="t", description="d"),
        of(
            {
                "a": {"type": ["string", "null"]},
                "b": {"enum": ["x", 1, None]},
                "c": {"const": {"$ref": "http://x"}},
            }
        ),
        of({"$ref": TEXT, "pattern": TEXT, "anyOf": {"type": "array", "items": TEXT, "maxItems": 3}}),
        of({"a": {"anyOf": [TEXT, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}]}}),
        of(
            {"a": {"$ref": "#/$defs/stop"}, "b": {"$ref": "#/$defs/stop"}},
            **{"$defs": {"stop": of({"x": TEXT})}},
        ),
        of({"a": {"$ref": "#/definitions/a-b"}}, definitions={"a-b": TEXT}),
        of(
            {},
            additionalProperties={"type": "number"},
            **{"$schema": "https://json-schema.org/draft/2020-12/schema"},
        ),
        *[struct_to_dict(one.spec.output_schema) for one in BUILT_IN if one.spec.HasField("output_schema")],
    ],
)
def test_an_ordinary_schema_is_taken(schema: dict[str, Any]) -> None:
    assert faults(schema, "s") == []
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({}, "s.type"),
        ({"type": "array"}, "s.type"),
        ({"type": ["object"]}, "s.type"),
        (of({"a": {"type": "text"}}), "s.properties.a.type"),
        (of({"a": True}), "s.properties.a"),
        (of([]), "s.properties"),  # type: ignore[arg-type]
        (of({"a": {"$ref": "http://169.254.169.254/latest"}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "file:///etc/passwd"}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "other.json"}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "#/$defs/none"}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "#/properties/a"}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": ["#"]}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "#/$defs/a%20b"}}, **{"$defs": {"a%20b": TEXT}}), "s.properties.a.$ref"),
        (of({"a": {"$ref": "#/$defs/a/b"}}, **{"$defs": {"a/b": TEXT}}), "s.properties.a.$ref"),
        (of({"a": {"$dynamicRef": "#x"}}), "s.properties.a.$dynamicRef"),
        (of({}, **{"$id": "http://evil"}), "s.$id"),
        (of({}, **{"$schema": "http://evil"}), "s.$schema"),
        (of({"a": {"$schema": "http://evil"}}), "s.properties.a.$schema"),
        (of({"a": {"type": "string", "pattern": "(a+)+$"}}), "s.properties.a.pattern"),
        (of({}, patternProperties={"(a+)+$": TEXT}), "s.patternProperties"),
        (of({}, propertyNames={"pattern": "x"}), "s.propertyNames"),
        (of({"a": {"oneOf": [TEXT]}}), "s.properties.a.oneOf"),
        (of({}, anyOf=[of({})]), "s.anyOf"),
        (of({"a": {"anyOf": []}}), "s.properties.a.anyOf"),
        (of({"a": {"anyOf": [{"minLength": -1}]}}), "s.properties.a.anyOf[0].minLength"),
        (of({"a": {"minimum": "1"}}), "s.properties.a.minimum"),
        (of({"a": {"minimum": True}}), "s.properties.a.minimum"),
        (of({"a": {"multipleOf": 0}}), "s.properties.a.multipleOf"),
        (of({"a": {"maxItems": 1.5}}), "s.properties.a.maxItems"),
        (of({}, required=["a", "a"]), "s.required"),
        (of({}, required="a"), "s.required"),
        (of({"a": {"enum": []}}), "s.properties.a.enum"),
        (of({"a": {"description": 1}}), "s.properties.a.description"),
        (of({"a": of({}, **{"$defs": {"x": TEXT}})}), "s.properties.a.$defs"),
        (of({}, additionalProperties="no"), "s.additionalProperties"),
        (of({"a": {"items": [TEXT]}}), "s.properties.a.items"),
    ],
)
def test_any_other_is_refused_where_it_is_wrong(schema: dict[str, Any], field: str) -> None:
    assert field in fields(schema)


def test_a_schema_has_a_size() -> None:
    assert fields(of({"a": {"description": "x" * MAX_BYTES}})) == ["s"]
    deep: dict[str, Any] = TEXT
    for _ in range(40):
        deep = {"type": "array", "items": deep}
    assert fields(of({"a": deep})) == ["s"]


def chain(length: int, *, reverse: bool = False) -> dict[str, Any]:
    """Definitions each of which refers to the next."""
    links = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(length)}
    order = sorted(links, reverse=reverse)
    return of(
        {name: {"$ref": f"#/$defs/{name}"} for name in order}, **{"$defs": {**links, f"d{length}": TEXT}}
    )


def doubling(levels: int) -> dict[str, Any]:
    """Definitions each of which holds the next one twice."""
    defs: dict[str, Any] = {"d0": TEXT}
    for n in range(levels):
        both = [{"$ref": f"#/$defs/d{n}"}] * 2
        defs[f"d{n + 1}"] = {"anyOf": both}
    return of({"a": {"$ref": f"#/$defs/d{levels}"}}, **{"$defs": defs})


@pytest.mark.parametrize(
    "schema",
    [
        of({"a": {"$ref": "#"}}),
        of({"a": {"$ref": "#/$defs/a"}}, **{"$defs": {"a": {"$ref": "#/$defs/a"}}}),
        of(
            {"a": {"$ref": "#/$defs/a"}},
            **{
                "$defs": {
                    "a": {"anyOf": [TEXT, {"$ref": "#/$defs/b"}]},
                    "b": of({"c": {"$ref": "#/$defs/a"}}),
                }
            },
        ),
        doubling(12),
        doubling(400),
        chain(400),
        chain(400, reverse=True),
        chain(40, reverse=True),
    ],
)
def test_a_schema_that_could_be_followed_for_ever_is_refused_at_once(schema: dict[str, Any]) -> None:
    assert len(json.dumps(schema, separators=(",", ":"))) < MAX_BYTES
    assert fields(schema) == ["s"]


def test_a_definition_may_be_used_several_times() -> None:
    assert faults(doubling(5), "s") == []
    assert faults(chain(10), "s") == []


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["object", "string", "#", "#/$defs/a", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*sorted(KEYWORDS), "a", "oneOf"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=examples(300), deadline=None)
@given(schema=st.dictionaries(st.sampled_from([*sorted(KEYWORDS), "a"]), values, max_size=5), answer=values)
def test_whatever_is_taken_is_a_schema_that_any_answer_can_be_checked_against(
    schema: dict[str, Any], answer: Any
) -> None:
    schema = {**schema, "type": "object"}
    if not faults(schema, "s"):
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).is_valid(answer)


numbers = st.integers(0, 5)
leaves = st.one_of(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["string", "null", "boolean"])}, optional={"title": st.text("ab")}
    ),
    st.fixed_dictionaries(
        {"type": st.just("number")},
        optional={"minimum": numbers, "exclusiveMaximum": numbers, "default": values},
    ),
    st.fixed_dictionaries({"enum": st.lists(values, min_size=1, max_size=3)}),
    st.just({"$ref": "#/$defs/leaf"}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"type": st.just("array"), "items": inner}, optional={"minItems": numbers, "maxItems": numbers}
        ),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            },
            optional={
                "required": st.lists(st.sampled_from("abc"), unique=True),
                "additionalProperties": inner,
            },
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(properties=st.dictionaries(st.sampled_from("abc"), schemas, max_size=3), answer=values)
def test_what_is_made_of_what_is_taken_is_taken(properties: dict[str, Any], answer: Any) -> None:
    schema = of(properties, **{"$defs": {"leaf": TEXT}})
    assert faults(schema, "s") == []
    Draft202012Validator.check_schema(schema)
    told = ""
    try:
        shape_of(schema).read(json.dumps({"a": answer, "b": answer}))
    except CallError as error:
        told = str(error)
    assert not told or "the answer breaks" in told
