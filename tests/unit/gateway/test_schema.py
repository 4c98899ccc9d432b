"""JSON Schema of messages, as the contracts' rules have it."""

from typing import Any

from waymesh.agent.v1.agent_registry_service_pb2 import CreateAgentRequest
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.gateway.schema import Schemas


def schema_of(message: Any) -> Any:
    schemas = Schemas({})
    schemas.message(message.DESCRIPTOR, "request")
    return schemas.components[message.DESCRIPTOR.name]


def test_a_pattern_with_words_of_its_own_is_a_pattern_all_the_same() -> None:
    spec = schema_of(AgentSpec)
    assert spec["properties"]["name"] == {"type": "string", "pattern": "^[a-z][a-z0-9_-]{0,63}$"}
    assert spec["required"] == ["name"]


def test_a_text_whose_pattern_takes_nothing_need_not_be_there() -> None:
    request = schema_of(CreateAgentRequest)
    assert request["properties"]["agent_id"]["pattern"].endswith("{0,127})?$")
    assert request["required"] == ["spec"]
