"""What is wrong with a change of an agent is told at once, by field, in words for people."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1 import definition_pb2 as d

from services.mesh.errors import InvalidArgument, MeshError, NotFound
from tests.integration.agents_registry_rig import Rig, serving, spec_of


@pytest.fixture
async def rig(module_database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with serving(module_database, tmp_path) as made:
        yield made


async def told(rig: Rig, method: str, request: object, kind: type[MeshError] = InvalidArgument) -> MeshError:
    """The error of a call."""
    with pytest.raises(kind) as caught:
        await rig.ask(method, request)
    return caught.value


def wrong_in_all_ways() -> d.AgentSpec:
    """A name that the contract refuses, and what only the registry sees."""
    spec = d.AgentSpec(name="Night Shift")
    spec.instructions.system = "{{secret}}"
    spec.config.model.fallback_models.extend(["one", "one", "two models"])
    spec.config.model.temperature = 3
    spec.capabilities.add(capability_id="weathr")
    spec.output_schema["type"] = "array"
    return spec


FIELDS = {
    "spec.name",
    "spec.config.model.temperature",
    "spec.instructions.system",
    "spec.config.model.fallback_models[1]",
    "spec.config.model.fallback_models[2]",
    "spec.capabilities[0].capability_id",
    "spec.output_schema.type",
}


async def test_rules_of_the_contract_and_of_the_registry_are_told_together(rig: Rig) -> None:
    error = await told(rig, "CreateAgent", pb.CreateAgentRequest(spec=wrong_in_all_ways()))
    assert {each.field for each in error.violations} == FIELDS
    update = pb.UpdateAgentRequest(agent_id="a", spec=wrong_in_all_ways())
    error = await told(rig, "UpdateAgent", update)
    assert {each.field for each in error.violations} == {"expected_version", *FIELDS}


async def test_a_field_is_told_once(rig: Rig) -> None:
    spec = spec_of("a")
    spec.instructions.system = "{{secret}}" * 5000
    error = await told(rig, "CreateAgent", pb.CreateAgentRequest(spec=spec))
    [violation] = error.violations
    assert violation.field == "spec.instructions.system"


@pytest.mark.parametrize("name", ["", "A", "a b", "1a", "a" * 65, "a\n"])
async def test_a_name_is_told_what_it_may_be(rig: Rig, name: str) -> None:
    error = await told(rig, "CreateAgent", pb.CreateAgentRequest(spec=spec_of(name)))
    assert error.message == "spec.name: must be 1 to 64 of a-z, 0-9, - and _, a letter first"


async def test_an_identity_is_told_what_it_may_be(rig: Rig) -> None:
    error = await told(rig, "CreateAgent", pb.CreateAgentRequest(spec=spec_of("a"), agent_id="-a"))
    [violation] = error.violations
    assert (violation.field, violation.description) == (
        "agent_id",
        "must be at most 128 letters, digits, dots, colons, - and _, a letter or digit first",
    )


async def test_a_tool_that_is_not_known_is_named_and_where_the_others_are(rig: Rig) -> None:
    agent = await rig.create(spec_of("agent"))
    with pytest.raises(NotFound) as caught:
        await rig.ask("AddCapability", pb.AddCapabilityRequest(agent_id=agent, capability_id="weathr"))
    expected = "there is no tool weathr; list_capabilities (GET /api/capabilities) tells which there are"
    assert caught.value.message == expected
