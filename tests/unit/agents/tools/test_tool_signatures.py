"""One signature is a tool's schema, its check and what it is called with."""

import json
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from services.agents.tools.catalogue import TOOLS
from services.agents.tools.desk import Desk
from services.agents.tools.signature import MAX_ARGUMENTS_CHARS, Part, Tool, tool
from services.mesh.errors import InvalidArgument
from tests.examples import examples

# What strict schemas of chat completions know.
STRICT = {
    *(
        "type",
        "properties",
        "required",
        "additionalProperties",
        "description",
        "enum",
        "anyOf",
        "items",
        "pattern",
    ),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems"),
}


class Spot(Part):
    """A spot."""

    name: Literal["here", "there"]
    depth: float = Field(ge=0)


async def dig(
    desk: Desk,
    where: Annotated[str, Field(description="Where.", pattern="^[a-z]{1,4}$")],
    times: Annotated[int, Field(ge=1, le=3)],
    spots: Annotated[list[Spot], Field(max_length=2)],
    strength: Annotated[float | None, Field(gt=0)] = None,
) -> dict[str, Any]:
    """Dig
    a hole."""
    return {"where": where, "times": times, "spots": len(spots), "strength": strength}


DIG = tool(dig)


def nodes(schema: Any) -> list[dict[str, Any]]:
    """Every schema within one."""
    if isinstance(schema, list):
        return [node for each in schema for node in nodes(each)]
    if not isinstance(schema, dict):
        return []
    inner = [node for each in schema.get("properties", {}).values() for node in nodes(each)]
    return [schema, *inner, *nodes(schema.get("items")), *nodes(schema.get("anyOf", []))]


@pytest.mark.parametrize("one", [*TOOLS, DIG], ids=lambda one: one.name)
def test_schemas_are_strict(one: Tool) -> None:
    jsonschema.Draft202012Validator.check_schema(one.schema)
    for node in nodes(one.schema):
        assert set(node) <= STRICT
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])
    assert all("description" in each for each in one.schema["properties"].values()) or one is DIG
    assert 20 < len(one.description) < 400 or one is DIG


def test_a_docstring_is_the_description_on_one_line() -> None:
    assert DIG.description == "Dig a hole."
    assert list(DIG.schema["properties"]) == ["where", "times", "spots", "strength"]


def test_what_is_optional_is_required_and_nullable() -> None:
    assert DIG.schema["required"] == ["where", "times", "spots", "strength"]
    assert {"type": "null"} in DIG.schema["properties"]["strength"]["anyOf"]
    assert DIG.parse('{"where":"ab","times":1,"spots":[]}')["strength"] is None


def test_a_default_that_a_strict_schema_cannot_tell_is_a_mistake() -> None:
    async def wrong(desk: Desk, count: int = 3) -> dict[str, Any]:
        """Wrong."""
        return {}

    with pytest.raises(TypeError, match="default"):
        tool(wrong)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ("[]", [""]),
        ("nonsense", [""]),
        ('{"where":"ab"', [""]),
        ('{"where":NaN}', [""]),
        ("[" * 5000, [""]),
        ("x" * (MAX_ARGUMENTS_CHARS + 1), [""]),
        ("{}", ["where", "times", "spots"]),
        ('{"where":"ABC","times":9,"spots":[],"strength":0}', ["where", "times", "strength"]),
        ('{"where":5,"times":"1","spots":{}}', ["where", "times", "spots"]),
        ('{"where":"a","times":1.5,"spots":[]}', ["times"]),
        ('{"where":"a","times":true,"spots":[]}', ["times"]),
        ('{"where":"a","times":1,"spots":[],"sudo":1}', ["sudo"]),
        (
            '{"where":"a","times":1,"spots":[{"name":"x","depth":-1,"y":2}]}',
            ["spots[0].name", "spots[0].depth", "spots[0].y"],
        ),
        ('{"where":"a","times":1,"spots":[{"name":"here"}]}', ["spots[0].depth"]),
    ],
)
def test_every_violation_is_told_by_its_field(arguments: str, fields: list[str]) -> None:
    with pytest.raises(InvalidArgument) as raised:
        DIG.parse(arguments)
    assert raised.value.reason_name == "TOOL_ARGUMENTS"
    assert raised.value.metadata == {"tool": "dig"}
    assert [violation.field for violation in raised.value.violations] == fields
    assert all(violation.description for violation in raised.value.violations)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.floats(-1, 5),
    st.sampled_from(["ab", "ABC", "", "here", "there", "abcde"]),
)
spots = st.one_of(
    values,
    st.lists(st.fixed_dictionaries({"name": values, "depth": values}), max_size=3),
    st.lists(st.fixed_dictionaries({"name": values, "depth": values, "more": values}), max_size=1),
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {"where": values, "times": values, "spots": spots, "strength": values}, optional={"other": values}
    )
)
def test_the_check_takes_what_the_schema_takes_and_nothing_else(arguments: dict[str, Any]) -> None:
    fits = jsonschema.Draft202012Validator(DIG.schema).is_valid(arguments)
    try:
        DIG.parse(json.dumps(arguments))
    except InvalidArgument:
        assert not fits
    else:
        assert fits


@settings(max_examples=examples(200), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(TOOLS), st.data())
def test_what_a_tools_schema_takes_its_check_takes(one: Tool, data: st.DataObject) -> None:
    arguments = data.draw(
        st.fixed_dictionaries({name: of(each) for name, each in one.schema["properties"].items()})
    )
    jsonschema.validate(arguments, one.schema)
    one.parse(json.dumps(arguments))


def of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a strict schema."""
    if "anyOf" in schema:
        return st.one_of(*(of(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            low = schema.get("minimum", schema.get("exclusiveMinimum"))
            return st.floats(low, schema["maximum"], exclude_min="exclusiveMinimum" in schema)
        case "string":
            return st.from_regex(
                schema["pattern"], fullmatch=True, alphabet=st.characters(min_codepoint=32, max_codepoint=126)
            )
        case "array":
            return st.lists(
                of(schema["items"]), min_size=schema.get("minItems", 0), max_size=schema["maxItems"]
            )
        case _:
            return st.fixed_dictionaries({name: of(each) for name, each in schema["properties"].items()})
