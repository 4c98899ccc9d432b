"""A run_id makes a run happen once: the same request again gets the same answer, whatever has changed."""

from pathlib import Path

import pytest
from google.protobuf import struct_pb2
from waymesh.agent.v1 import agent_registry_service_pb2 as registry_pb
from waymesh.agent.v1 import agent_service_pb2 as pb
from waymesh.agent.v1 import task_pb2
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.mesh.errors import AlreadyExists, InvalidArgument, NotFound
from tests.integration.agents_rig import agents_mesh


async def test_the_answer_of_an_agent_that_is_gone_is_found_again(database: str, tmp_path: Path) -> None:
    async with agents_mesh(database, tmp_path) as mesh:
        spec = AgentSpec(name="shortlived")
        await mesh.registry.CreateAgent(registry_pb.CreateAgentRequest(spec=spec))
        asked = task_pb2.AskRequest(question="hello", agent="shortlived", run_id="once")
        first = await mesh.stub.Ask(asked)
        await mesh.registry.DeleteAgent(registry_pb.DeleteAgentRequest(agent_id="shortlived"))

        assert await mesh.stub.Ask(asked) == first
        events = [event async for event in mesh.stub.StreamRun(pb.StreamRunRequest(ask=asked))]
        assert events[-1].result.ask == first

        with pytest.raises(AlreadyExists):
            await mesh.stub.Ask(task_pb2.AskRequest(question="other", agent="shortlived", run_id="once"))
        with pytest.raises(NotFound):
            await mesh.stub.Ask(task_pb2.AskRequest(question="hello", agent="shortlived", run_id="new"))


async def test_a_run_that_was_given_its_id_is_found_under_it(database: str, tmp_path: Path) -> None:
    async with agents_mesh(database, tmp_path) as mesh:
        first = await mesh.stub.Ask(task_pb2.AskRequest(question="hello"))

        again = await mesh.stub.Ask(task_pb2.AskRequest(question="hello", run_id=first.run_id))

        assert again == first


async def test_data_beyond_what_a_run_can_use_is_refused_by_name(database: str, tmp_path: Path) -> None:
    data = struct_pb2.Struct()
    data.update({"rows": ["x" * 1000] * 80})
    async with agents_mesh(database, tmp_path) as mesh:
        with pytest.raises(InvalidArgument) as refused:
            await mesh.stub.RunTask(task_pb2.RunTaskRequest(agent="eta", task="Sum up.", input=data))
    assert [one.field for one in refused.value.violations] == ["input"]
