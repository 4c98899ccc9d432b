"""What a spec must keep beyond its contract, and what comes with Waymesh keeps it."""

from typing import Any

import protovalidate
import pytest
from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1.agent_registry_service_pb2 import CapabilityDescription
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.agents.builtin import BUILT_IN
from services.agents.registry import normalised
from services.agents.spec_rules import MAX_BYTES, PLACEHOLDERS, config_faults, faults
from services.agents.tools.toolbox import Toolbox
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound
from services.mesh.json_codec import struct_to_dict

TOOLBOX = Toolbox(None, None, None)


def fields(**parts: Any) -> list[str]:
    return [one.field for one in faults(AgentSpec(name="a", **parts), TOOLBOX)]


@pytest.mark.parametrize("agent", BUILT_IN, ids=lambda agent: agent.agent_id)
class TestBuiltIn:
    def test_keeps_every_rule_that_others_must_keep(self, agent: Any) -> None:
        protovalidate.validate(agent.spec)
        assert faults(agent.spec, TOOLBOX) == []
        assert agent.spec.name == agent.agent_id
        assert normalised(agent.spec) == agent.spec

    def test_tells_its_model_where_numbers_come_from_and_what_is_no_instruction(self, agent: Any) -> None:
        text = agent.spec.instructions.system
        assert "Numbers come from tools" in text
        assert "Never invent" in text
        assert "is never an instruction" in text
        assert all(placeholder in text for placeholder in PLACEHOLDERS)


def test_models_are_those_of_the_service() -> None:
    assert not any(agent.spec.config.HasField("model") for agent in BUILT_IN)


def test_five_agents_come_with_waymesh() -> None:
    assert [agent.agent_id for agent in BUILT_IN] == [
        "eta",
        "route",
        "dispatcher",
        "agent-demo",
        "agent-custom",
    ]


def test_only_the_dispatcher_has_a_tool_that_may_change_something() -> None:
    changing = {tool.capability_id for tool in TOOLBOX.describe() if tool.changes_things}
    for agent in BUILT_IN:
        has = {one.capability_id for one in agent.spec.capabilities} & changing
        assert has == (changing if agent.agent_id == "dispatcher" else set())


def test_the_answer_about_an_eta_has_the_agreed_shape() -> None:
    schema: Any = struct_to_dict(BUILT_IN[0].spec.output_schema)
    assert schema["required"] == ["order_id", "confidence_score", "factors"]
    while_to_come = ("pickup_eta_minutes", "delivery_eta_minutes")
    assert set(schema["properties"]) == {*schema["required"], *while_to_come, "alternative_routes"}
    for name in while_to_come:
        assert schema["properties"][name]["exclusiveMinimum"] == 0
    confidence = schema["properties"]["confidence_score"]
    assert (confidence["minimum"], confidence["maximum"]) == (0, 1)


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066"])
def test_text_holds_nothing_that_steers_a_terminal_or_turns_text_around(character: str) -> None:
    text = f"a{character}b"
    assert fields(description=text, instructions={"system": text, "style": text}) == [
        "spec.description",
        "spec.instructions.system",
        "spec.instructions.style",
    ]


def test_text_of_any_language_with_lines_and_tabs_is_fine() -> None:
    text = "Grüße,\n\t日本語 עברית 🛵\r\n"
    assert fields(description=text, instructions={"system": text}) == []


@pytest.mark.parametrize(
    "text", ["{{user}}", "{{ agent }}", "{{agent", "{{{agent}}}", "{{agent}} {{x}}", "{{}}", "{{\n}}"]
)
def test_a_template_knows_three_placeholders(text: str) -> None:
    assert fields(instructions={"style": text}) == ["spec.instructions.style"]


def test_a_brace_alone_is_text() -> None:
    assert fields(instructions={"system": 'Say {"a": {"b": 1}} as {{agent}} on {{date}} for {{task}}.'}) == []


@pytest.mark.parametrize("name", ["gpt 5", "a,b", "a\n", "mödel", "\x1b[31m"])
def test_a_models_name_is_as_in_the_settings(name: str) -> None:
    assert fields(config={"model": {"model": name}}) == ["spec.config.model.model"]
    assert fields(config={"model": {"fallback_models": ["x", name]}}) == [
        "spec.config.model.fallback_models[1]"
    ]


def test_a_model_is_asked_once() -> None:
    given = {"model": "x", "fallback_models": ["y", "x", "y"]}
    assert fields(config={"model": given}) == [
        "spec.config.model.fallback_models[1]",
        "spec.config.model.fallback_models[2]",
    ]


def test_tools_are_known_once_each_and_configured_right() -> None:
    tools = [
        {"capability_id": "weather", "config": {"timeout_s": 5, "max_calls": 3}},
        {"capability_id": "weather"},
        {"capability_id": "rm -rf"},
        {"capability_id": "get_order", "config": {"timeout_s": 0, "shell": True}},
    ]
    assert sorted(fields(capabilities=tools)) == [
        "spec.capabilities[1].capability_id",
        "spec.capabilities[2].capability_id",
        "spec.capabilities[3].config.shell",
        "spec.capabilities[3].config.timeout_s",
    ]


class Odd:
    """A tool that names what is wrong in its own way."""

    names = frozenset({"odd"})

    def __init__(self, error: Exception) -> None:
        self.error = error

    def describe(self) -> list[CapabilityDescription]:
        return []

    def check_config(self, name: str, config: Struct) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (InvalidArgument("no", violations=[FieldViolation("config.a", "x")]), "at.a"),
        (InvalidArgument("no", violations=[FieldViolation("a", "x")]), "at.a"),
        (InvalidArgument("no", violations=[FieldViolation("config", "x")]), "at"),
        (InvalidArgument("no", violations=[FieldViolation("configured", "x")]), "at.configured"),
        (InvalidArgument("no"), "at"),
        (NotFound("no"), "at"),
    ],
)
def test_the_path_of_a_wrong_setting_begins_where_it_stands(error: Exception, field: str) -> None:
    assert [one.field for one in config_faults(Odd(error), "odd", Struct(), "at")] == [field]


def test_a_spec_has_a_size_and_its_parts_fit_into_it_together() -> None:
    spec = AgentSpec(
        name="a", description="ü" * 1000, instructions={"system": "語" * 16_000, "style": "語" * 4_000}
    )
    spec.output_schema.update({"type": "object", "description": "x" * 32_000})
    for tool in TOOLBOX.names:
        spec.capabilities.add(capability_id=tool, config={"timeout_s": 1, "max_bytes": 256, "max_calls": 1})
    assert spec.ByteSize() < MAX_BYTES
    assert faults(spec, TOOLBOX) == []
    spec.output_schema.update({"more": "x" * MAX_BYTES})
    assert [one.field for one in faults(spec, TOOLBOX)] == ["spec"]


def test_no_more_is_told_than_anybody_reads() -> None:
    assert len(faults(AgentSpec(name="a", capabilities=[{"capability_id": "x"}] * 200), TOOLBOX)) == 50
