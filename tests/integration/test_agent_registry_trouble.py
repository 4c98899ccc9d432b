"""What goes wrong in the middle of a change leaves it undone or done, and keeps nobody else from working."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceStub

from services.agents.builtin import BUILT_IN
from services.agents.server import Agents
from services.agents.settings import AgentsSettings
from services.mesh.client import ClientFactory
from services.mesh.errors import Unavailable
from services.mesh.events import Message
from services.mesh.settings import load
from services.mesh.telemetry import Telemetry
from tests.integration.agents_registry_rig import Rig, serving, spec_of


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with serving(database, tmp_path) as made:
        yield made


def update(rig: Rig, agent: str, expected: int, text: str) -> Any:
    spec = spec_of(description=text)
    request = pb.UpdateAgentRequest(agent_id=agent, expected_version=expected, spec=spec)
    return rig.ask("UpdateAgent", request)


async def version(rig: Rig, agent: str) -> int:
    found = await rig.ask("GetAgent", pb.GetAgentRequest(agent_id=agent))
    return int(found.agent.version)


async def test_a_caller_who_goes_leaves_a_whole_change_or_none(rig: Rig) -> None:
    one = await rig.create(spec_of())
    newest = 1
    for steps in range(60):
        asking = asyncio.create_task(update(rig, one, newest, f"text {steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        # Whoever tries again is told the same either way.
        again = await update(rig, one, newest, f"text {steps}")
        newest += 1
        assert again.agent.version == newest
        assert rig.catalogue.find("default", one).version == newest
    assert [event.version for event in await rig.events("default", newest)] == list(range(1, newest + 1))


async def test_a_change_that_cannot_be_published_is_not_made(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await rig.create(spec_of())

    async def fails(conn: Any, messages: list[Message]) -> None:
        raise Unavailable("the bus is away")

    with monkeypatch.context() as patched:
        patched.setattr(rig.bus, "publish", fails)
        with pytest.raises(Unavailable):
            await update(rig, one, 1, "lost")
    assert await version(rig, one) == rig.catalogue.find("default", one).version == 1
    await update(rig, one, 1, "made")
    assert [event.version for event in await rig.events("default", 2)] == [1, 2]


async def test_changes_that_wait_keep_nobody_else_waiting(rig: Rig) -> None:
    one = await rig.create(spec_of())
    async with rig.store.transaction() as conn:
        await conn.execute("SELECT begin_change()")
        waiting = [asyncio.create_task(update(rig, one, 1, f"text {n}")) for n in range(30)]
        for _ in range(10):
            assert await version(rig, one) == 1
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert await version(rig, one) == 2


async def test_a_change_behind_one_that_hangs_is_refused_for_now(rig: Rig) -> None:
    one = await rig.create(spec_of())
    await rig.store.pool.execute("ALTER FUNCTION begin_change() SET lock_timeout = '50ms'")
    async with rig.store.transaction() as conn:
        await conn.execute("SELECT begin_change()")
        with pytest.raises(Unavailable) as raised:
            await update(rig, one, 1, "text")
    assert raised.value.reason_name == "STORE_UNAVAILABLE"
    assert raised.value.retry_after_s is not None
    assert not (await update(rig, one, 1, "text")).duplicate


async def test_the_service_has_its_agents_and_tools_from_its_first_answer_on(
    database: str, tmp_path: Path
) -> None:
    settings = load(
        AgentsSettings, data_dir=tmp_path, port=0, admin=0, drain_s=0.0, enable_outcome_logging=False
    )
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    for _start in range(2):
        service = Agents(settings, database)
        await service.start()
        try:
            stub: Any = clients.stub(AgentRegistryServiceStub, f"127.0.0.1:{service.server.port}")
            agents = (await stub.ListAgents(pb.ListAgentsRequest())).agents
            assert [(agent.agent_id, agent.version) for agent in agents] == [
                (name, 1) for name in sorted(one.agent_id for one in BUILT_IN)
            ]
            for agent in agents:
                tools = await stub.ListCapabilities(pb.ListCapabilitiesRequest(agent_id=agent.agent_id))
                assert [one.capability_id for one in tools.capabilities] == [
                    one.capability_id for one in agent.spec.capabilities
                ]
        finally:
            await service.stop()
    await clients.close()
