"""Whatever is asked of the registry, in whatever order and at once: it does what a plain model does.

No update is lost, and every version has its one event, in order. Real PostgreSQL, real bus, real gRPC.
"""

import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1 import definition_pb2 as d

from services.agents.catalogue import Catalogue
from services.mesh.errors import MeshError, NotFound
from tests.examples import examples
from tests.integration.agents_registry_model import Agent, Content, Made, Model, Op
from tests.integration.agents_registry_rig import TOOLS, Rig, serving, struct_of

NAMES: Final = ("a", "b", "c")
CHANGES: Final = {
    "create": d.AGENT_CHANGE_CREATED,
    "update": d.AGENT_CHANGE_UPDATED,
    "delete": d.AGENT_CHANGE_DELETED,
    "revert": d.AGENT_CHANGE_REVERTED,
    "add": d.AGENT_CHANGE_CAPABILITY_ADDED,
}
EVENTS: Final = {
    "create": "agent.created",
    "update": "agent.updated",
    "delete": "agent.deleted",
    "revert": "agent.updated",
    "add": "agent.capability_added",
}

configs = st.sampled_from([None, 1, 2])
contents = st.builds(
    Content,
    st.sampled_from(NAMES),
    st.sampled_from(["", "day", "night"]),
    st.sampled_from([None, 0.0, 0.5]),
    st.dictionaries(st.sampled_from(TOOLS), configs, max_size=2).map(
        lambda tools: tuple(sorted(tools.items()))
    ),
)
# How far behind the newest version a change was made; below 0: ahead of it.
lags = st.sampled_from([0, 0, 0, 0, 1, 2, -1])
places = st.integers(0, 30)


class Registry(RuleBasedStateMachine):
    """Two tenants, who use the same names and identities."""

    rig: Rig
    peer: Rig
    """Another process, as far as the registry can tell."""
    runner: asyncio.Runner
    numbers = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        number = next(self.numbers)
        self.tenants = (f"left-{number}", f"right-{number}")
        self.model = Model()
        self.last: Op | None = None

    # What is asked. No rule has a precondition: who comes first of two at once is not the same in a second
    # run. What needs an agent makes one where there is none.

    @rule(place=places, content=contents, own=st.sampled_from(["", "", "x", "y"]))
    def create(self, place: int, content: Content, own: str) -> None:
        self.ask(Op("create", self.tenants[place % 2], own, content))

    @rule(place=places, lag=lags, content=contents)
    def update(self, place: int, lag: int, content: Content) -> None:
        self.ask(self.op("update", place, lag, content=content))

    @rule(place=places, lag=lags, any_version=st.booleans())
    def delete(self, place: int, lag: int, any_version: bool) -> None:
        self.ask(self.op("delete", place, lag, any_version=any_version))

    @rule(place=places, lag=lags, any_version=st.booleans(), to=st.integers(1, 6))
    def revert(self, place: int, lag: int, any_version: bool, to: int) -> None:
        self.ask(self.op("revert", place, lag, any_version=any_version, version=to))

    @rule(place=places, lag=lags, any_version=st.booleans(), tool=st.sampled_from(TOOLS), timeout_s=configs)
    def add(self, place: int, lag: int, any_version: bool, tool: str, timeout_s: int | None) -> None:
        self.ask(self.op("add", place, lag, any_version=any_version, tool=tool, timeout_s=timeout_s))

    @rule()
    def repeat(self) -> None:
        if self.last is not None:
            self.ask(self.last)

    @rule(place=places, writers=st.lists(contents, min_size=2, max_size=3))
    def write_at_once(self, place: int, writers: list[Content]) -> None:
        ops = [self.op("update", place, 0, content=content) for content in writers]
        tenant, identity = ops[0].tenant, ops[0].target
        alive = not self.model.agents[tenant, identity].deleted
        before = self.model.agents[tenant, identity].content
        told = self.ask_at_once(ops)
        if alive and len({*writers, before}) == len(writers) + 1 and "AGENT_NAME_TAKEN" not in told:
            assert sorted(told) == sorted(["made"] + ["STALE_VERSION"] * (len(writers) - 1))

    @rule(place=places, content=contents, tool=st.sampled_from(TOOLS), to=st.integers(1, 3))
    def change_at_once(self, place: int, content: Content, tool: str, to: int) -> None:
        self.ask_at_once(
            [
                self.op("update", place, 0, content=content),
                self.op("add", place, 0, any_version=True, tool=tool, timeout_s=1),
                self.op("revert", place, 0, version=to),
            ]
        )

    @rule(place=places, one=contents, other=contents)
    def create_at_once(self, place: int, one: Content, other: Content) -> None:
        tenant = self.tenants[place % 2]
        self.ask_at_once([Op("create", tenant, "", one), Op("create", tenant, "", other)])

    # How it is asked, and what has to be so then.

    def op(self, kind: Any, place: int, lag: int, *, any_version: bool = False, **more: Any) -> Op:
        if not self.model.agents:
            self.ask(Op("create", self.tenants[place % 2]))
        keys = sorted(self.model.agents)
        tenant, identity = keys[place % len(keys)]
        newest = len(self.model.agents[tenant, identity].history)
        expected = 0 if any_version else max(1, newest - lag)
        return Op(kind, tenant, identity, expected=expected, **more)

    def ask(self, op: Op) -> None:
        told, answer = self.runner.run(self.call(op))
        assert told == self.model.apply(op), op
        self.note(op, told, answer)
        if told in ("made", "duplicate") and op.kind != "create":
            self.compare(op, answer)
            self.last = op

    def ask_at_once(self, ops: Sequence[Op]) -> list[str]:
        """There must be an order in which the model answers each the same."""

        async def all_() -> list[tuple[str, Any]]:
            rigs = itertools.cycle((self.rig, self.peer))
            answers = await asyncio.gather(*(self.call(op, rig) for op, rig in zip(ops, rigs, strict=False)))
            await self.rig.catalogue.load()
            return list(answers)

        answers = self.runner.run(all_())
        for order in itertools.permutations(range(len(ops))):
            before, told = self.model, []
            self.model = before.copy()
            for place in order:
                told.append(self.model.apply(ops[place]) == answers[place][0])
                if ops[place].kind == "create" and answers[place][0] == "made" and told[-1]:
                    self.model.register(ops[place], answers[place][1].agent_id)
            if all(told):
                return [said for said, _ in answers]
            self.model = before
        raise AssertionError(f"no order of {ops} gives {[said for said, _ in answers]}")

    def note(self, op: Op, told: str, answer: Any) -> None:
        if op.kind != "create":
            return
        if told == "made":
            self.model.register(op, answer.agent_id)
        if told in ("made", "duplicate"):
            assert answer.agent_id == (op.target or self.model.named(op.tenant, op.content.name))

    def compare(self, op: Op, answer: Any) -> None:
        agent = self.model.agents[op.tenant, op.target]
        if op.kind == "add":
            assert answer.status == "success"
        else:
            assert_is(answer.agent, agent)

    async def call(self, op: Op, rig: Rig | None = None) -> tuple[str, Any]:
        method, request = request_of(op)
        try:
            answer = await (rig or self.rig).ask(method, request, op.tenant, name=f"key of {op.tenant}")
        except MeshError as error:
            return error.reason_name, error
        return ("duplicate" if answer.duplicate else "made"), answer

    @invariant()
    def this_process_knows_what_is_so_at_once(self) -> None:
        for tenant in self.tenants:
            for name in NAMES:
                self.is_known(self.rig.catalogue, tenant, name)

    def is_known(self, catalogue: Catalogue, tenant: str, name: str) -> None:
        identity = self.model.named(tenant, name)
        try:
            found = catalogue.find(tenant, name)
        except NotFound:
            assert identity is None
        else:
            assert identity == found.agent_id
            agent = self.model.agents[tenant, identity]
            assert (found.version, content_of(found.spec)) == (len(agent.history), agent.content)

    def teardown(self) -> None:
        self.runner.run(self.all_is_as_in_the_model())

    async def all_is_as_in_the_model(self) -> None:
        for tenant in self.tenants:
            agents = {
                identity: one for (whose, identity), one in self.model.agents.items() if whose == tenant
            }
            for identity, agent in agents.items():
                request = pb.ListAgentVersionsRequest(agent_id=identity, page_size=1000)
                versions = (await self.rig.ask("ListAgentVersions", request, tenant)).versions
                assert [of_version(one) for one in reversed(versions)] == agent.history
                assert_is(
                    (await self.rig.ask("GetAgent", pb.GetAgentRequest(agent_id=identity), tenant)).agent,
                    agent,
                )
            count = sum(len(agent.history) for agent in agents.values())
            events = await self.rig.events(tenant, count)
            assert len(events) == count
            for identity, agent in agents.items():
                told = [event for event in events if event.agent_id == identity]
                assert [event.version for event in told] == list(range(1, len(agent.history) + 1))
                assert [(e.type, e.name, e.capability_id, e.reverted_to) for e in told] == [
                    (EVENTS[made.kind], made.content.name, made.tool, made.reverted_to)
                    for made in agent.history
                ]
            assert {event.changed_by for event in events} <= {f"key of {tenant}"}
        await self.peer.catalogue.load()
        for tenant in self.tenants:
            for name in NAMES:
                self.is_known(self.peer.catalogue, tenant, name)


def request_of(op: Op) -> tuple[str, Any]:
    spec = spec_of(op.content)
    match op.kind:
        case "create":
            return "CreateAgent", pb.CreateAgentRequest(agent_id=op.target, spec=spec)
        case "update":
            return "UpdateAgent", pb.UpdateAgentRequest(
                agent_id=op.target, expected_version=op.expected, spec=spec
            )
        case "delete":
            return "DeleteAgent", pb.DeleteAgentRequest(agent_id=op.target, expected_version=op.expected)
        case "revert":
            return "RevertAgent", pb.RevertAgentRequest(
                agent_id=op.target, version=op.version, expected_version=op.expected
            )
    config = None if op.timeout_s is None else struct_of({"timeout_s": op.timeout_s})
    return "AddCapability", pb.AddCapabilityRequest(
        agent_id=op.target, capability_id=op.tool, config=config, expected_version=op.expected
    )


def spec_of(content: Content) -> d.AgentSpec:
    spec = d.AgentSpec(name=content.name, description=content.description)
    if content.temperature is not None:
        spec.config.model.temperature = content.temperature
    for tool, timeout_s in reversed(content.tools):
        config = None if timeout_s is None else struct_of({"timeout_s": timeout_s})
        spec.capabilities.add(capability_id=tool, config=config)
    return spec


def content_of(spec: d.AgentSpec) -> Content:
    model = spec.config.model
    tools = []
    for one in spec.capabilities:
        timeout_s = int(one.config["timeout_s"]) if one.HasField("config") else None
        tools.append((one.capability_id, timeout_s))
    temperature = model.temperature if model.HasField("temperature") else None
    return Content(spec.name, spec.description, temperature, tuple(tools))


def of_version(version: d.AgentVersion) -> Made:
    kind: Any = next(kind for kind, change in CHANGES.items() if change == version.change)
    tool = ""
    if kind == "add":
        # A version does not name its tool, the event does; here it is what differs.
        tool = version.changes[0].field.split(".")[1]
    return Made(kind, content_of(version.spec), version.reverted_to, tool)


def assert_is(told: d.AgentDefinition, agent: Agent) -> None:
    assert (told.version, content_of(told.spec)) == (len(agent.history), agent.content)
    assert told.HasField("deleted_at") is agent.deleted


def test_the_registry_does_what_the_model_does(module_database: str, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        here, there = serving(module_database, tmp_path / "one"), serving(module_database, tmp_path / "two")
        Registry.runner = runner
        Registry.rig, Registry.peer = runner.run(here.__aenter__()), runner.run(there.__aenter__())
        try:
            run_state_machine_as_test(
                Registry, settings=settings(max_examples=examples(80), stateful_step_count=30, deadline=None)
            )
            runner.run(nothing_else_was_published(Registry.rig))
        finally:
            runner.run(there.__aexit__(None, None, None))
            runner.run(here.__aexit__(None, None, None))


async def nothing_else_was_published(rig: Rig) -> None:
    """Every version ever made has one event, and there is no event besides."""
    made = await rig.store.pool.fetch("SELECT tenant, agent_id, version FROM agent_versions")
    published = await rig.store.pool.fetch("SELECT event_id FROM bus.log")
    assert made
    assert sorted(row["event_id"] for row in published) == sorted(
        f"{row['tenant']}/{row['agent_id']}@{row['version']}" for row in made
    )
    assert len(rig.records) == len(made)
