"""The shape of structured answers: what a model is told, and what it is held to."""

import json
import urllib.request
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from services.agents.llm.kinds import CallError, ErrorKind
from services.agents.llm.schema import Shape, shape_of

ETA = {
    "type": "object",
    "properties": {
        "order_id": {"type": "string", "minLength": 1},
        "minutes": {"type": "number", "exclusiveMinimum": 0},
        "level": {"enum": ["low", "high"]},
        "kind": {"type": "string", "enum": ["a", "b"]},
        "note": {"type": ["string", "null"]},
        "stops": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"at": {"type": "string"}, "by": {"type": "string"}},
                "required": ["at"],
            },
        },
    },
    "required": ["order_id", "minutes"],
}
FULL = {
    "order_id": "17",
    "minutes": 2,
    "level": "low",
    "kind": "a",
    "note": "x",
    "stops": [{"at": "A", "by": "B"}],
}


def told_objects(schema: Any) -> list[dict[str, Any]]:
    """Every object schema within a schema."""
    found = []
    if isinstance(schema, dict):
        if "properties" in schema:
            found.append(schema)
        for each in schema.values():
            found += told_objects(each)
    elif isinstance(schema, list):
        for each in schema:
            found += told_objects(each)
    return found


def kind_of(shape: Shape, text: str) -> ErrorKind:
    with pytest.raises(CallError) as caught:
        shape.read(text)
    return caught.value.kind


def test_what_the_model_is_told_keeps_the_rules_of_strict_mode():
    shape = shape_of(ETA)
    assert shape.strict
    objects = told_objects(shape.asked)
    assert len(objects) == 2
    for each in objects:
        assert each["additionalProperties"] is False
        assert each["required"] == list(each["properties"])
    Draft202012Validator.check_schema(shape.asked)


def test_what_may_be_left_out_may_be_null_instead():
    told = shape_of(ETA).asked["properties"]
    assert told["order_id"]["type"] == "string"
    assert told["kind"] == {"type": ["string", "null"], "enum": ["a", "b", None]}
    assert told["note"]["type"] == ["string", "null"]
    assert {"type": "null"} in told["level"]["anyOf"]
    assert told["stops"]["items"]["properties"]["by"]["type"] == ["string", "null"]


def test_nulls_that_stand_for_nothing_are_left_out_of_the_answer():
    answer = {"order_id": "17", "minutes": 2, "level": None, "kind": None, "note": None,
              "stops": [{"at": "A", "by": None}]}  # fmt: skip
    assert shape_of(ETA).read(json.dumps(answer)) == {
        "order_id": "17",
        "minutes": 2,
        "note": None,  # null is a value of its own here
        "stops": [{"at": "A"}],
    }


@given(st.sets(st.sampled_from(["level", "kind", "stops"])))
def test_what_the_model_may_answer_to_what_it_is_told_is_read_as_what_was_meant(left_out: set[str]):
    shape = shape_of(ETA)
    answer = {name: None if name in left_out else value for name, value in FULL.items()}
    Draft202012Validator(shape.asked).validate(answer)
    meant = {name: value for name, value in FULL.items() if name not in left_out}
    assert shape.read(json.dumps(answer)) == meant


@pytest.mark.parametrize(
    "answer",
    [
        {"minutes": 2},
        {"order_id": None, "minutes": 2},
        {"order_id": "", "minutes": 2},  # a rule that strict mode does not know
        {"order_id": "17", "minutes": 0},
        {"order_id": "17", "minutes": True},
        {"order_id": "17", "minutes": 2, "kind": "c"},
        {"order_id": "17", "minutes": 2, "stops": [{"by": "B"}]},
        [],
        "17",
        None,
    ],
)
def test_an_answer_is_held_to_the_schema_as_it_was_given(answer: object):
    assert kind_of(shape_of(ETA), json.dumps(answer)) is ErrorKind.SCHEMA_VIOLATION


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "```json\n{}"],
)
def test_what_is_no_json_is_malformed(text: str):
    assert kind_of(shape_of(ETA), text) is ErrorKind.MALFORMED


def test_an_error_names_the_rule_and_nothing_of_the_answer():
    with pytest.raises(CallError) as caught:
        shape_of(ETA).read('{"order_id": "17", "minutes": "password"}')
    assert caught.value.message == "the answer breaks properties.minutes.type"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "additionalProperties": {"type": "number"}},
        {"type": "object", "properties": {"any": {}}},
        {"type": "object", "properties": {"map": {"type": "object", "additionalProperties": True}}},
        {"type": "object", "properties": {"a": {"allOf": [{"type": "string"}]}}},
    ],
)
def test_what_strict_mode_cannot_say_is_asked_as_it_is(schema: dict[str, Any]):
    shape = shape_of(schema)
    assert not shape.strict
    assert shape.asked == schema
    assert shape.read("{}") == {}


def test_references_within_the_schema_are_followed():
    schema = {
        "type": "object",
        "$defs": {
            "stop": {
                "type": "object",
                "properties": {"by": {"type": "string"}, "next": {"$ref": "#/$defs/stop"}},
            }
        },
        "properties": {"first": {"$ref": "#/$defs/stop"}},
        "required": ["first"],
    }
    shape = shape_of(schema)
    assert shape.strict
    assert shape.read('{"first": {"by": null, "next": {"by": "B", "next": null}}}') == {
        "first": {"next": {"by": "B"}}
    }


def test_nothing_is_fetched_that_a_schema_refers_to(monkeypatch: pytest.MonkeyPatch):
    fetched: list[object] = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda *what, **_: fetched.append(what))
    schema = {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x.json"}}, "required": ["a"]}
    assert kind_of(Shape(schema), '{"a": 1}') is ErrorKind.SCHEMA_VIOLATION
    assert fetched == []


def test_a_schema_that_refers_to_itself_without_end_ends():
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"$ref": "#/$defs/a"}},
    }
    assert kind_of(Shape(schema), '{"a": {"a": null}}') is ErrorKind.SCHEMA_VIOLATION


@pytest.mark.parametrize("schema", [{"type": "nothing"}, {"properties": 3}, {"required": "a"}])
def test_what_is_no_schema_is_refused(schema: dict[str, Any]):
    with pytest.raises(ValueError, match="not a JSON Schema"):
        shape_of(schema)


@pytest.mark.parametrize(
    "said", [r'"\ud800"', r'"a\u0000b"', "1" + "0" * 400, "1e400", "[" * 40 + "]" * 40, r'{"\udc00":1}']
)
def test_what_no_message_can_hold_is_no_answer(said: str):
    anything = {"type": "object", "properties": {"x": {}}, "required": ["x"]}
    with pytest.raises(CallError):
        shape_of(anything).read('{"x":' + said + "}")
