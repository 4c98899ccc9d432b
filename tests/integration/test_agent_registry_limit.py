"""A tenant has only so many agents, however many ask for more at the same time."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_AGENT_LIMIT

from services.agents.builtin import BUILT_IN
from services.agents.seeding import seed
from services.mesh.errors import AlreadyExists, ResourceExhausted
from tests.integration.agents_registry_rig import Rig, serving, spec_of

LIMIT = 3
numbers = itertools.count(1)


@pytest.fixture
async def rigs(module_database: str, tmp_path: Path) -> AsyncIterator[list[Rig]]:
    """Two processes, for a tenant that no other test has."""
    tenant = f"tenant-{next(numbers)}"
    async with AsyncExitStack() as stack:
        made = []
        for name in ("one", "other"):
            folder = tmp_path / name
            folder.mkdir()
            made.append(await stack.enter_async_context(serving(module_database, folder, max_agents=LIMIT)))
            made[-1].tenant = tenant
        yield made


async def living(rig: Rig) -> int:
    """How many agents the tenant has."""
    listed = await rig.ask("ListAgents", pb.ListAgentsRequest())
    return sum(not agent.built_in for agent in listed.agents)


async def filled(rig: Rig) -> list[str]:
    """As many agents as may be."""
    return [await rig.create(spec_of(f"agent-{place}")) for place in range(LIMIT)]


async def test_there_are_never_more_whoever_asks_at_the_same_time(rigs: list[Rig]) -> None:
    asked = [rigs[place % 2].create(spec_of(f"agent-{place}")) for place in range(LIMIT * 6)]
    made = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in made if isinstance(each, ResourceExhausted)]
    assert len(refused) == LIMIT * 5
    assert sum(isinstance(each, str) for each in made) == LIMIT
    assert await living(rigs[0]) == LIMIT
    for error in refused:
        assert error.reason == ERROR_REASON_AGENT_LIMIT
        assert dict(error.metadata) == {"limit": str(LIMIT)}


async def test_the_same_again_is_no_agent_more(rigs: list[Rig]) -> None:
    first, *_ = await filled(rigs[0])
    assert await rigs[1].create(spec_of("agent-0")) == first
    with pytest.raises(AlreadyExists):  # and what is wrong besides is told before
        await rigs[1].create(spec_of("agent-0", description="another"))


async def test_a_deleted_one_makes_place_and_comes_back_only_if_there_is_some(rigs: list[Rig]) -> None:
    rig, _ = rigs
    first, *_ = await filled(rig)
    await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=first))
    last = await rig.create(spec_of("last"))
    back = pb.RevertAgentRequest(agent_id=first, version=1)
    with pytest.raises(ResourceExhausted):
        await rig.ask("RevertAgent", back)
    await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=last))
    assert (await rig.ask("RevertAgent", back)).agent.version == 3
    again = pb.RevertAgentRequest(agent_id=first, version=1, expected_version=2)
    assert (await rig.ask("RevertAgent", again)).duplicate


async def test_those_that_live_change_at_the_limit_as_before(rigs: list[Rig]) -> None:
    rig, _ = rigs
    first, *_ = await filled(rig)
    changed = spec_of("agent-0", description="changed")
    await rig.ask("UpdateAgent", pb.UpdateAgentRequest(agent_id=first, expected_version=1, spec=changed))
    await rig.ask("AddCapability", pb.AddCapabilityRequest(agent_id=first, capability_id="weather"))
    back = await rig.ask("RevertAgent", pb.RevertAgentRequest(agent_id=first, version=1))
    assert back.agent.version == 4


async def test_each_tenant_has_its_own_and_those_built_in_do_not_count(rigs: list[Rig]) -> None:
    rig, _ = rigs
    await seed(rig.store, rig.bus, BUILT_IN)
    for tenant in (rig.tenant, f"not-{rig.tenant}", "default"):
        for place in range(LIMIT):
            await rig.create(spec_of(f"agent-{place}"), tenant=tenant)
        with pytest.raises(ResourceExhausted):
            await rig.create(spec_of("one-more"), tenant=tenant)
