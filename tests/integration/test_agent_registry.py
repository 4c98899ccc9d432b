"""Agents are data: every change is a version and an event, and no version is ever lost or changed."""

import itertools
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1 import definition_pb2 as d

from services.mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
)
from tests.integration.agents_registry_rig import Rig, serving, spec_of, struct_of

numbers = itertools.count(1)


@pytest.fixture
async def rig(module_database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """One of a tenant that no other test has."""
    async with serving(module_database, tmp_path) as made:
        made.tenant = f"tenant-{next(numbers)}"
        yield made


async def update(rig: Rig, agent: str, expected: int, spec: d.AgentSpec) -> Any:
    request = pb.UpdateAgentRequest(agent_id=agent, expected_version=expected, spec=spec)
    return await rig.ask("UpdateAgent", request)


async def delete(rig: Rig, agent: str, expected: int = 0) -> Any:
    return await rig.ask("DeleteAgent", pb.DeleteAgentRequest(agent_id=agent, expected_version=expected))


async def revert(rig: Rig, agent: str, version: int, expected: int = 0) -> Any:
    request = pb.RevertAgentRequest(agent_id=agent, version=version, expected_version=expected)
    return await rig.ask("RevertAgent", request)


async def add(rig: Rig, agent: str, tool: str, expected: int = 0, **config: Any) -> Any:
    request = pb.AddCapabilityRequest(
        agent_id=agent,
        capability_id=tool,
        config=struct_of(config) if config else None,
        expected_version=expected,
    )
    return await rig.ask("AddCapability", request)


async def get(rig: Rig, agent: str, version: int = 0) -> d.AgentDefinition:
    found: pb.GetAgentResponse = await rig.ask(
        "GetAgent", pb.GetAgentRequest(agent_id=agent, version=version)
    )
    return found.agent


async def versions(rig: Rig, agent: str) -> list[d.AgentVersion]:
    found = await rig.ask("ListAgentVersions", pb.ListAgentVersionsRequest(agent_id=agent))
    return list(found.versions)


class TestCreation:
    async def test_an_identity_is_made_from_the_tenant_and_the_name(self, rig: Rig) -> None:
        one = await rig.create(spec_of("night-shift"))
        other = await rig.create(spec_of("night-shift"), tenant=f"not-{rig.tenant}")
        assert uuid.UUID(one).version == uuid.UUID(other).version == 5
        assert one != other

    async def test_the_same_again_finds_the_agent_and_changes_nothing(self, rig: Rig) -> None:
        spec = spec_of(description="counts")
        one = await rig.create(spec)
        again = await rig.ask("CreateAgent", pb.CreateAgentRequest(spec=spec))
        assert (again.agent_id, again.duplicate) == (one, True)
        assert len(await versions(rig, one)) == len(await rig.events(rig.tenant, 1)) == 1

    async def test_what_was_created_counts_not_what_it_has_become(self, rig: Rig) -> None:
        one = await rig.create(spec_of(), agent_id="one")
        await update(rig, one, 1, spec_of(description="changed"))
        assert await rig.create(spec_of(), agent_id="one") == "one"
        assert (await get(rig, one)).version == 2

    async def test_another_agent_cannot_have_the_name(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        for agent_id in ("", "another"):
            with pytest.raises(AlreadyExists) as raised:
                await rig.create(spec_of(description="other"), agent_id=agent_id)
            assert raised.value.reason_name == "AGENT_NAME_TAKEN"
            assert raised.value.metadata == {"name": "night-shift", "agent_id": one}

    async def test_an_identity_cannot_come_again_with_other_content(self, rig: Rig) -> None:
        await rig.create(spec_of("one"), agent_id="mine")
        with pytest.raises(AlreadyExists) as raised:
            await rig.create(spec_of("two"), agent_id="mine")
        assert (raised.value.reason_name, raised.value.metadata) == ("CONFLICTING_CONTENT", {"id": "mine"})

    async def test_the_name_of_a_deleted_agent_is_free_for_another(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await delete(rig, one)
        two = await rig.create(spec_of())
        assert two != one
        await delete(rig, two)
        assert await rig.create(spec_of()) not in (one, two)

    async def test_the_old_name_of_an_agent_is_free_for_another(self, rig: Rig) -> None:
        one = await rig.create(spec_of("old"))
        await update(rig, one, 1, spec_of("new"))
        assert await rig.create(spec_of("old")) != one

    async def test_a_deleted_identity_says_how_it_comes_back(self, rig: Rig) -> None:
        await rig.create(spec_of(), agent_id="mine")
        await delete(rig, "mine")
        with pytest.raises(FailedPrecondition) as raised:
            await rig.create(spec_of(), agent_id="mine")
        assert raised.value.reason_name == "AGENT_DELETED"

    @pytest.mark.parametrize("agent_id", ["a/b", "a b", "-a", "a\n", "ä", "a" * 129, "../x"])
    async def test_an_identity_fits_into_a_path(self, rig: Rig, agent_id: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            await rig.create(spec_of(), agent_id=agent_id)
        assert [one.field for one in raised.value.violations] == ["agent_id"]


class TestUpdates:
    async def test_a_version_holds_what_it_changed_who_did_it_and_when(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="old"))
        await update(rig, one, 1, spec_of(description="new"))
        new, first = await versions(rig, one)
        assert (new.version, new.change, new.changed_by) == (2, d.AGENT_CHANGE_UPDATED, "tester")
        assert [(c.field, c.before.string_value, c.after.string_value) for c in new.changes] == [
            ("description", "old", "new")
        ]
        assert first.changed_at.ToDatetime() <= new.changed_at.ToDatetime()
        assert (first.change, list(first.changes)) == (d.AGENT_CHANGE_CREATED, [])

    async def test_a_stale_update_is_aborted_and_told_the_newest_version(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await update(rig, one, 1, spec_of(description="first"))
        for expected in (1, 3):
            with pytest.raises(Aborted) as raised:
                await update(rig, one, expected, spec_of(description="second"))
            assert raised.value.reason_name == "STALE_VERSION"
            assert raised.value.metadata == {"agent_id": one, "version": "2"}
        assert (await get(rig, one)).spec.description == "first"

    async def test_the_same_update_again_is_told_as_made_whatever_came_since(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await update(rig, one, 1, spec_of(description="first"))
        assert (await update(rig, one, 1, spec_of(description="first"))).duplicate
        await update(rig, one, 2, spec_of(description="second"))
        again = await update(rig, one, 1, spec_of(description="first"))
        assert (again.duplicate, again.agent.version, again.agent.spec.description) == (True, 3, "second")

    async def test_an_update_that_changes_nothing_makes_no_version_and_no_event(self, rig: Rig) -> None:
        spec = spec_of(capabilities=[{"capability_id": "weather"}, {"capability_id": "get_order"}])
        one = await rig.create(spec)
        # Said in other words: capabilities in another order, and messages that are there but empty.
        spec.CopyFrom(spec_of(capabilities=[{"capability_id": "get_order"}, {"capability_id": "weather"}]))
        spec.config.limits.SetInParent()
        spec.instructions.SetInParent()
        spec.output_schema.SetInParent()
        spec.capabilities[0].config.SetInParent()
        assert (await update(rig, one, 1, spec)).duplicate
        assert (await get(rig, one)).version == 1
        await update(rig, one, 1, spec_of(description="now"))
        assert [event.version for event in await rig.events(rig.tenant, 2)] == [1, 2]

    async def test_an_agent_may_get_another_name_that_is_free(self, rig: Rig) -> None:
        one, two = await rig.create(spec_of("one")), await rig.create(spec_of("two"))
        with pytest.raises(AlreadyExists):
            await update(rig, one, 1, spec_of("two"))
        await update(rig, two, 1, spec_of("three"))
        await update(rig, "one", 1, spec_of("two"))
        assert ((await get(rig, "two")).agent_id, (await get(rig, "three")).agent_id) == (one, two)

    async def test_an_unknown_agent_is_not_found(self, rig: Rig) -> None:
        with pytest.raises(NotFound) as raised:
            await update(rig, "nobody", 1, spec_of())
        assert (raised.value.reason_name, raised.value.metadata) == ("AGENT_UNKNOWN", {"agent": "nobody"})
        assert raised.value.message == "agent nobody is not known"


class TestDeletion:
    async def test_a_deleted_agent_does_not_change_but_can_be_seen(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="kept"))
        assert (await delete(rig, one)).agent.HasField("deleted_at")
        for change in (update(rig, one, 2, spec_of()), add(rig, one, "weather")):
            with pytest.raises(FailedPrecondition) as raised:
                await change
            assert (raised.value.reason_name, raised.value.metadata) == ("AGENT_DELETED", {"agent_id": one})
        found = await get(rig, one)
        assert (found.version, found.spec.description, found.HasField("deleted_at")) == (2, "kept", True)

    async def test_deleting_again_changes_nothing_by_identity_name_or_version(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        assert not (await delete(rig, one, 1)).duplicate
        assert [(await delete(rig, *what)).duplicate for what in ((one,), ("night-shift",), (one, 1))] == [
            True
        ] * 3
        assert (await get(rig, one)).version == 2

    async def test_what_has_changed_since_is_not_deleted(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await update(rig, one, 1, spec_of(description="changed"))
        with pytest.raises(Aborted):
            await delete(rig, one, 1)
        assert not (await get(rig, one)).HasField("deleted_at")


class TestReverts:
    async def test_an_agent_is_again_what_it_was(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="first"))
        await update(rig, one, 1, spec_of("renamed", description="second"))
        made = await revert(rig, one, 1)
        assert (made.agent.version, made.agent.spec) == (3, spec_of(description="first"))
        newest = (await versions(rig, one))[0]
        assert (newest.change, newest.reverted_to) == (d.AGENT_CHANGE_REVERTED, 1)
        event = (await rig.events(rig.tenant, 3))[2]
        assert (event.type, event.reverted_to) == ("agent.updated", 1)

    async def test_a_deleted_agent_comes_back(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await delete(rig, one)
        made = await revert(rig, one, 1)
        assert (made.agent.version, made.agent.HasField("deleted_at")) == (3, False)
        assert rig.catalogue.find(rig.tenant, "night-shift").version == 3
        assert [event.type for event in await rig.events(rig.tenant, 3)] == [
            "agent.created",
            "agent.deleted",
            "agent.updated",
        ]

    async def test_not_if_another_agent_has_its_name_now(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await delete(rig, one)
        two = await rig.create(spec_of(description="new"))
        with pytest.raises(AlreadyExists) as raised:
            await revert(rig, one, 1)
        assert raised.value.metadata["agent_id"] == two

    async def test_the_same_again_changes_nothing(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await update(rig, one, 1, spec_of(description="second"))
        await revert(rig, one, 1, 2)
        assert (await revert(rig, one, 1, 2)).duplicate
        assert (await revert(rig, one, 1)).duplicate
        assert (await get(rig, one)).version == 3

    async def test_a_version_that_never_was_is_not_found(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        for asked in (revert(rig, one, 9), get(rig, one, 9), get(rig, one, 2**32 - 1)):
            with pytest.raises(NotFound) as raised:
                await asked
            assert raised.value.reason_name == "VERSION_UNKNOWN"


class TestCapabilities:
    async def test_a_tool_is_added_or_configured_anew(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        assert not (await add(rig, one, "weather")).duplicate
        assert not (await add(rig, one, "weather", timeout_s=2.5)).duplicate
        assert (await add(rig, one, "weather", timeout_s=2.5)).duplicate
        assert (await add(rig, one, "weather", 1)).duplicate
        event = (await rig.events(rig.tenant, 3))[2]
        assert (event.type, event.capability_id, event.version) == ("agent.capability_added", "weather", 3)
        changed = (await versions(rig, one))[0].changes
        assert [(c.field, c.HasField("before"), c.after.struct_value["timeout_s"]) for c in changed] == [
            ("capabilities.weather.config", False, 2.5)
        ]

    async def test_who_names_no_version_adds_to_whatever_is_there(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await add(rig, one, "weather")
        await add(rig, one, "get_order")
        with pytest.raises(Aborted):
            await add(rig, one, "optimize_route", 1)
        assert [tool.capability_id for tool in (await get(rig, one)).spec.capabilities] == [
            "get_order",
            "weather",
        ]

    async def test_an_unknown_tool_and_a_wrong_configuration_are_refused(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        with pytest.raises(NotFound) as unknown:
            await add(rig, one, "open_door")
        assert unknown.value.metadata == {"capability_id": "open_door"}
        with pytest.raises(InvalidArgument) as wrong:
            await add(rig, one, "weather", timeout_s=-1)
        assert [one.field for one in wrong.value.violations] == ["config.timeout_s"]

    async def test_all_tools_are_listed_or_those_of_an_agent_with_its_configuration(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        await add(rig, one, "weather", timeout_s=3)
        all_ = await rig.ask("ListCapabilities", pb.ListCapabilitiesRequest())
        assert [tool.capability_id for tool in all_.capabilities] == [
            "get_order",
            "optimize_route",
            "weather",
        ]
        assert not any(tool.HasField("config") for tool in all_.capabilities)
        (own,) = (await rig.ask("ListCapabilities", pb.ListCapabilitiesRequest(agent_id=one))).capabilities
        assert (own.capability_id, own.description, own.config["timeout_s"]) == (
            "weather",
            "It is weather.",
            3,
        )


class TestHistory:
    async def test_an_agent_can_be_seen_as_it_was(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="first"))
        await update(rig, one, 1, spec_of(description="second"))
        was = await get(rig, one, 1)
        assert (was.spec.description, was.version) == ("first", 2)

    async def test_any_two_versions_can_be_compared(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="first"))
        await add(rig, one, "weather")
        await update(rig, one, 2, spec_of(description="third"))

        async def changed(before: int, after: int) -> list[str]:
            request = pb.DiffAgentVersionsRequest(agent_id=one, from_version=before, to_version=after)
            found = await rig.ask("DiffAgentVersions", request)
            assert found.to_version == (after or 3)
            return [change.field for change in found.changes]

        assert await changed(1, 2) == ["capabilities.weather"]
        assert await changed(1, 0) == await changed(3, 1) == ["description"]
        assert await changed(2, 0) == ["description", "capabilities.weather"]
        assert await changed(2, 2) == []
        with pytest.raises(NotFound):
            await changed(1, 4)

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE agent_versions SET changed_by = 'somebody else'",
            "DELETE FROM agent_versions",
            "TRUNCATE agent_versions",
            "TRUNCATE agents CASCADE",
            "DELETE FROM agents",
        ],
    )
    async def test_the_database_itself_lets_nobody_change_it(self, rig: Rig, statement: str) -> None:
        await rig.create(spec_of())
        with pytest.raises((asyncpg.RestrictViolationError, asyncpg.ForeignKeyViolationError)):
            await rig.store.pool.execute(statement)
        assert len(await versions(rig, "night-shift")) == 1

    async def test_versions_come_in_pages_each_with_what_it_changed(self, rig: Rig) -> None:
        one = await rig.create(spec_of(description="1"))
        for number in range(2, 6):
            await update(rig, one, number - 1, spec_of(description=str(number)))
        found, token = [], ""
        while True:
            request = pb.ListAgentVersionsRequest(agent_id=one, page_size=2, page_token=token)
            page = await rig.ask("ListAgentVersions", request)
            found += page.versions
            token = page.next_page_token
            if not token:
                break
            # Somebody changes it meanwhile; an old page goes on where it ended.
            await add(rig, one, "weather", timeout_s=len(found))
        assert [version.version for version in found] == [5, 4, 3, 2, 1]
        assert [change.before.string_value for version in found for change in version.changes] == [*"4321"]


class TestLists:
    async def test_agents_are_listed_by_name_in_pages(self, rig: Rig) -> None:
        names = [f"agent-{letter}" for letter in "ecadb"]
        for name in names:
            await rig.create(spec_of(name))
        await rig.create(spec_of("not-mine"), tenant=f"not-{rig.tenant}")
        found, token = [], ""
        while True:
            page = await rig.ask("ListAgents", pb.ListAgentsRequest(page_size=2, page_token=token))
            found += [agent.spec.name for agent in page.agents]
            token = page.next_page_token
            if not token:
                break
        assert found == sorted(names)

    async def test_deleted_agents_are_listed_if_asked(self, rig: Rig) -> None:
        for name in ("gone", "here"):
            await rig.create(spec_of(name))
        await delete(rig, "gone")

        async def listed(**asked: Any) -> list[str]:
            page = await rig.ask("ListAgents", pb.ListAgentsRequest(**asked))
            return [agent.spec.name for agent in page.agents]

        assert await listed() == ["here"]
        assert await listed(show_deleted=True) == ["gone", "here"]

    async def test_a_page_ends_before_its_message_becomes_too_large(self, rig: Rig) -> None:
        names = [f"big-{number:03}" for number in range(150)]
        instructions = d.AgentInstructions(system="ü" * 16_000, style="é" * 4_000)
        for name in names:
            await rig.create(spec_of(name, instructions=instructions))
        sizes, found, token = [], [], ""
        while True:
            page = await rig.ask("ListAgents", pb.ListAgentsRequest(page_size=1000, page_token=token))
            found += [agent.spec.name for agent in page.agents]
            sizes.append(page.ByteSize())
            token = page.next_page_token
            if not token:
                break
        assert found == names
        assert max(sizes) < 5 * 1024 * 1024
        assert len(sizes) > 1

    async def test_a_token_is_good_for_its_own_list_only(self, rig: Rig) -> None:
        for name in ("one", "two", "three"):
            await rig.create(spec_of(name))
            await rig.create(spec_of(name), tenant=f"not-{rig.tenant}")
        await update(rig, "one", 1, spec_of("one", description="2"))
        token = (await rig.ask("ListAgents", pb.ListAgentsRequest(page_size=1))).next_page_token
        of_versions = pb.ListAgentVersionsRequest(agent_id="one", page_size=1)
        second = (await rig.ask("ListAgentVersions", of_versions)).next_page_token
        assert token
        assert second
        wrong: list[tuple[str, Any, str]] = [
            ("ListAgents", pb.ListAgentsRequest(page_token=token, show_deleted=True), rig.tenant),
            ("ListAgents", pb.ListAgentsRequest(page_token=token), f"not-{rig.tenant}"),
            ("ListAgents", pb.ListAgentsRequest(page_token=second), rig.tenant),
            ("ListAgents", pb.ListAgentsRequest(page_token="ä?"), rig.tenant),
            ("ListAgents", pb.ListAgentsRequest(page_token=token[:-2]), rig.tenant),
            ("ListAgentVersions", pb.ListAgentVersionsRequest(agent_id="two", page_token=second), rig.tenant),
            ("ListAgentVersions", pb.ListAgentVersionsRequest(agent_id="one", page_token=token), rig.tenant),
        ]
        for method, request, tenant in wrong:
            with pytest.raises(InvalidArgument) as raised:
                await rig.ask(method, request, tenant)
            assert raised.value.reason_name == "CURSOR_INVALID"
            assert [one.field for one in raised.value.violations] == ["page_token"]


class TestEvents:
    async def test_an_event_is_json_of_the_contract_under_the_agents_key(self, rig: Rig) -> None:
        one = await rig.create(spec_of())
        (event,) = await rig.events(rig.tenant, 1)
        (record,) = [record for record in rig.records if record.event_id == event.event_id]
        assert (record.topic, record.key, record.event_id) == (
            "agent-lifecycle",
            f"{rig.tenant}/{one}",
            f"{rig.tenant}/{one}@1",
        )
        assert record.headers["x-waymesh-tenant"] == rig.tenant
        assert (record.type, record.content_type) == (
            "waymesh.agent.v1.AgentLifecycleEvent",
            "application/json",
        )
        value = json.loads(record.value)
        assert value.pop("timestamp").endswith("Z")
        assert value == {
            "event_id": f"{rig.tenant}/{one}@1",
            "type": "agent.created",
            "agent_id": one,
            "name": "night-shift",
            "tenant": rig.tenant,
            "version": 1,
            "capability_id": "",
            "reverted_to": 0,
            "changed_by": "tester",
        }

    async def test_a_change_that_is_refused_leaves_nothing(self, rig: Rig) -> None:
        one = await rig.create(spec_of("one"))
        await rig.create(spec_of("two"))
        for change in (
            update(rig, one, 1, spec_of("two")),
            update(rig, one, 7, spec_of()),
            revert(rig, one, 5),
        ):
            with pytest.raises(MeshError):
                await change
        await delete(rig, one)
        events = await rig.events(rig.tenant, 3)
        assert sorted((event.name, event.version, event.type) for event in events) == [
            ("one", 1, "agent.created"),
            ("one", 2, "agent.deleted"),
            ("two", 1, "agent.created"),
        ]
