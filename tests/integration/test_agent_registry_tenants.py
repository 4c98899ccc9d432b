"""A tenant sees its own agents and those that come with Waymesh, and changes its own alone."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.agents.builtin import BuiltIn
from services.agents.seeding import seed
from services.mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied
from tests.integration.agents_registry_rig import Rig, opened, serving, spec_of, struct_of

ETA = BuiltIn("eta", spec_of("eta", description="explains"))
ROUTE = BuiltIn("route", spec_of("route"))


@pytest.fixture
async def rig(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with serving(database, tmp_path) as made:
        await seed(made.store, made.bus, (ETA, ROUTE))
        await made.catalogue.load()
        yield made


def requests(agent: str) -> list[tuple[str, Any]]:
    """Everything that can be asked about one agent."""
    return [
        ("GetAgent", pb.GetAgentRequest(agent_id=agent)),
        ("GetAgent", pb.GetAgentRequest(agent_id=agent, version=1)),
        ("ListAgentVersions", pb.ListAgentVersionsRequest(agent_id=agent)),
        ("DiffAgentVersions", pb.DiffAgentVersionsRequest(agent_id=agent, from_version=1)),
        ("ListCapabilities", pb.ListCapabilitiesRequest(agent_id=agent)),
        *changes(agent),
        ("DeleteAgent", pb.DeleteAgentRequest(agent_id=agent)),
    ]


def changes(agent: str) -> list[tuple[str, Any]]:
    return [
        ("UpdateAgent", pb.UpdateAgentRequest(agent_id=agent, expected_version=1, spec=spec_of("theirs"))),
        ("RevertAgent", pb.RevertAgentRequest(agent_id=agent, version=1)),
        ("AddCapability", pb.AddCapabilityRequest(agent_id=agent, capability_id="weather")),
    ]


async def names(rig: Rig, tenant: str) -> list[tuple[str, bool]]:
    page = await rig.ask("ListAgents", pb.ListAgentsRequest(show_deleted=True), tenant)
    return [(agent.spec.name, agent.built_in) for agent in page.agents]


class TestTenants:
    async def test_another_tenants_agent_is_as_unknown_as_one_that_never_was(self, rig: Rig) -> None:
        one = await rig.create(spec_of("secret"), "north")
        for agent in (one, "secret"):
            for method, request in requests(agent):
                with pytest.raises(NotFound) as theirs:
                    await rig.ask(method, request, "south")
                request.agent_id = "nobody"
                with pytest.raises(NotFound) as nobodys:
                    await rig.ask(method, request, "south")
                told = theirs.value
                assert (told.reason_name, told.metadata) == ("AGENT_UNKNOWN", {"agent": agent})
                assert nobodys.value.message == "agent nobody is not known"
                assert (told.message, told.reason) == (f"agent {agent} is not known", nobodys.value.reason)
        with pytest.raises(NotFound):
            rig.catalogue.find("south", one)
        assert ("secret", False) not in await names(rig, "south")

    async def test_not_even_the_default_tenant_sees_another_tenants(self, rig: Rig) -> None:
        one = await rig.create(spec_of("secret"), "north")
        with pytest.raises(NotFound):
            await rig.ask("GetAgent", pb.GetAgentRequest(agent_id=one), "default")
        await rig.create(spec_of("own"), "default")
        with pytest.raises(NotFound):
            await rig.ask("GetAgent", pb.GetAgentRequest(agent_id="own"), "north")
        with pytest.raises(NotFound):
            rig.catalogue.find("north", "own")

    async def test_two_tenants_may_use_the_same_name_and_identity(self, rig: Rig) -> None:
        for tenant in ("north", "south"):
            assert await rig.create(spec_of("same", description=tenant), tenant, agent_id="same") == "same"
        await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id="same"), "south")
        assert rig.catalogue.find("north", "same").spec.description == "north"
        with pytest.raises(NotFound):
            rig.catalogue.find("south", "same")
        (north,) = await rig.events("north", 1)
        created, deleted = await rig.events("south", 2)
        assert len({north.event_id, created.event_id, deleted.event_id}) == 3


class TestBuiltIn:
    async def test_every_tenant_sees_them(self, rig: Rig) -> None:
        for tenant in ("default", "north"):
            assert await names(rig, tenant) == [("eta", True), ("route", True)]
            found = await rig.ask("GetAgent", pb.GetAgentRequest(agent_id="eta"), tenant)
            assert (found.agent.built_in, found.agent.spec) == (True, ETA.spec)
            assert rig.catalogue.find(tenant, "eta").built_in
        versions = await rig.ask("ListAgentVersions", pb.ListAgentVersionsRequest(agent_id="eta"), "north")
        assert [version.changed_by for version in versions.versions] == ["waymesh"]

    async def test_another_tenant_cannot_change_them(self, rig: Rig) -> None:
        for method, request in changes("eta"):
            with pytest.raises(PermissionDenied) as raised:
                await rig.ask(method, request, "north")
            assert (raised.value.reason_name, raised.value.metadata) == ("AGENT_BUILT_IN", {"agent": "eta"})

    async def test_nobody_can_delete_them(self, rig: Rig) -> None:
        for tenant in ("default", "north"):
            with pytest.raises(FailedPrecondition) as raised:
                await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id="eta"), tenant)
            assert (raised.value.reason_name, raised.value.metadata) == ("AGENT_BUILT_IN", {"agent": "eta"})

    async def test_the_default_tenant_may_change_them_for_all(self, rig: Rig) -> None:
        added = pb.AddCapabilityRequest(
            agent_id="eta", capability_id="weather", config=struct_of({"timeout_s": 2})
        )
        await rig.ask("AddCapability", added, "default")
        assert [one.capability_id for one in rig.catalogue.find("north", "eta").spec.capabilities] == [
            "weather"
        ]
        await rig.ask("RevertAgent", pb.RevertAgentRequest(agent_id="eta", version=1), "default")
        assert rig.catalogue.find("north", "eta").spec == ETA.spec

    async def test_a_tenants_own_agent_goes_before_the_built_in_one_of_its_name(self, rig: Rig) -> None:
        own = await rig.create(spec_of("eta", description="ours"), "north")
        assert rig.catalogue.find("north", "eta").agent_id == own
        assert rig.catalogue.find("south", "eta").agent_id == "eta"
        found = await rig.ask("GetAgent", pb.GetAgentRequest(agent_id="eta"), "north")
        assert found.agent.spec.description == "ours"
        assert await names(rig, "north") == [("eta", False), ("eta", True), ("route", True)]

    async def test_who_deletes_his_own_has_the_built_in_one_again(self, rig: Rig) -> None:
        own = await rig.create(spec_of("eta"), "north")
        for _ in range(2):
            gone = await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id="eta"), "north")
            assert gone.agent.agent_id == own
        assert rig.catalogue.find("north", "eta").built_in
        assert (await rig.ask("GetAgent", pb.GetAgentRequest(agent_id="eta"), "north")).agent.built_in

    async def test_pages_hold_each_agent_once_where_names_are_the_same(self, rig: Rig) -> None:
        await rig.create(spec_of("eta"), "north")
        await rig.create(spec_of("zeta"), "north")
        found, token = [], ""
        for _ in range(4):
            page = await rig.ask("ListAgents", pb.ListAgentsRequest(page_size=1, page_token=token), "north")
            found += [(agent.spec.name, agent.built_in) for agent in page.agents]
            token = page.next_page_token
        assert found == [("eta", False), ("eta", True), ("route", True), ("zeta", False)]
        assert token == ""


class TestSeeding:
    async def versions(self, rig: Rig, agent: str = "eta") -> list[tuple[int, str]]:
        request = pb.ListAgentVersionsRequest(agent_id=agent)
        found = (await rig.ask("ListAgentVersions", request)).versions
        return [(version.version, version.spec.description) for version in reversed(found)]

    def with_text(self, text: str) -> tuple[BuiltIn, ...]:
        return (BuiltIn("eta", spec_of("eta", description=text)), ROUTE)

    async def test_processes_that_start_together_make_each_agent_once(
        self, database: str, tmp_path: Path
    ) -> None:
        async with opened(database, tmp_path) as (store, bus), opened(database, tmp_path) as (second, other):
            made = await asyncio.gather(
                *(seed(*one, (ETA, ROUTE)) for one in ((store, bus), (second, other)) for _ in range(3))
            )
            assert sorted(made) == [0, 0, 0, 0, 0, 2]
            assert await store.pool.fetchval("SELECT count(*) FROM agent_versions") == 2
            assert await store.pool.fetchval("SELECT count(*) FROM bus.log") == 2

    async def test_new_words_make_a_version_where_the_newest_is_the_softwares(self, rig: Rig) -> None:
        assert await seed(rig.store, rig.bus, self.with_text("explains better")) == 1
        assert await self.versions(rig) == [(1, "explains"), (2, "explains better")]
        events = [event for event in await rig.events("default", 3) if event.agent_id == "eta"]
        assert [(event.type, event.changed_by) for event in events] == [
            ("agent.created", "waymesh"),
            ("agent.updated", "waymesh"),
        ]

    async def test_older_software_does_not_take_newer_words_back(self, rig: Rig) -> None:
        await seed(rig.store, rig.bus, self.with_text("explains better"))
        assert await seed(rig.store, rig.bus, (ETA, ROUTE)) == 0
        assert [text for _, text in await self.versions(rig)] == ["explains", "explains better"]

    async def test_what_an_operator_changed_stays(self, rig: Rig) -> None:
        mine = pb.UpdateAgentRequest(
            agent_id="eta", expected_version=1, spec=spec_of("eta", description="mine")
        )
        await rig.ask("UpdateAgent", mine)
        assert await seed(rig.store, rig.bus, self.with_text("explains better")) == 0
        assert await self.versions(rig) == [(1, "explains"), (2, "mine")]

    async def test_an_agent_of_an_operator_is_not_taken_over(self, rig: Rig) -> None:
        await rig.create(spec_of("taken", description="ours"))
        await rig.create(spec_of("other"), agent_id="held")
        wanted = (
            BuiltIn("taken", spec_of("taken")),
            BuiltIn("held", spec_of("held")),
            BuiltIn("new", spec_of("new")),
        )
        assert await seed(rig.store, rig.bus, wanted) == 1
        await rig.catalogue.load()
        assert rig.catalogue.find("default", "taken").spec.description == "ours"
        assert not rig.catalogue.find("default", "held").built_in
        assert rig.catalogue.find("north", "new").built_in


async def test_what_breaks_a_rule_is_refused_field_by_field(rig: Rig) -> None:
    spec = AgentSpec(
        name="bad",
        description="a\x1bb",
        instructions={"system": "Hello {{user}}"},
        config={"model": {"model": "gpt 5"}},
        capabilities=[
            {"capability_id": "open_door"},
            {"capability_id": "weather", "config": {"timeout_s": 0}},
        ],
        output_schema={"type": "object", "properties": {"a": {"$ref": "http://169.254.169.254/"}}},
    )
    asked: list[tuple[str, Any]] = [
        ("CreateAgent", pb.CreateAgentRequest(spec=spec)),
        ("UpdateAgent", pb.UpdateAgentRequest(agent_id="eta", expected_version=1, spec=spec)),
    ]
    for method, request in asked:
        with pytest.raises(InvalidArgument) as raised:
            await rig.ask(method, request)
        assert raised.value.reason_name == "INVALID_FIELD"
        assert sorted(one.field for one in raised.value.violations) == [
            "spec.capabilities[0].capability_id",
            "spec.capabilities[1].config.timeout_s",
            "spec.config.model.model",
            "spec.description",
            "spec.instructions.system",
            "spec.output_schema.properties.a.$ref",
        ]


@pytest.mark.parametrize("name", ["", "Night", "9lives", "a b", "a\n", "a\x00", "é", "a" * 65, "-a", "a/b"])
async def test_a_name_is_plain(rig: Rig, name: str) -> None:
    with pytest.raises(MeshError) as raised:
        await rig.create(AgentSpec(name=name))
    assert isinstance(raised.value, InvalidArgument)
    assert [one.field for one in raised.value.violations] == ["spec.name"]
