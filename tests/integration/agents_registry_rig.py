"""A registry on a real store, bus and gRPC server, with few tools, and everything on its topic."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.agent_registry_service_pb2_grpc import (
    AgentRegistryServiceStub,
    add_AgentRegistryServiceServicer_to_server,
)
from waymesh.agent.v1.definition_pb2 import AgentLifecycleEvent, AgentSpec
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CAPABILITY_UNKNOWN, ERROR_REASON_INVALID_FIELD

from services import agents
from services.agents.catalogue import Catalogue
from services.agents.changes import Changes
from services.agents.registry_service import RegistryServicer, tell_at_once
from services.agents.settings import AgentsSettings
from services.mesh import principal
from services.mesh.client import ClientFactory
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound
from services.mesh.events import EventBus, Record, create_bus
from services.mesh.events.codec import decode_value
from services.mesh.principal import Principal
from services.mesh.retry import RetryPolicy
from services.mesh.server import GrpcServer
from services.mesh.settings import load
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

GUARD_S = 60.0
MIGRATIONS = Path(agents.__file__).parent / "migrations"
TOOLS = ("get_order", "optimize_route", "weather")


class Book:
    """Three tools, of which each takes `timeout_s` above 0 and nothing else."""

    names = frozenset(TOOLS)

    def describe(self) -> list[pb.CapabilityDescription]:
        return [pb.CapabilityDescription(capability_id=name, description=f"It is {name}.") for name in TOOLS]

    def check_config(self, name: str, config: Struct) -> None:
        if name not in self.names:
            raise NotFound("there is no such tool", reason=ERROR_REASON_CAPABILITY_UNKNOWN)
        broken = [
            FieldViolation(f"config.{key}", "must be timeout_s, above 0")
            for key, value in config.fields.items()
            if key != "timeout_s" or value.number_value <= 0
        ]
        if broken:
            raise InvalidArgument("wrong", reason=ERROR_REASON_INVALID_FIELD, violations=broken)


@dataclass
class Rig:
    """One process that serves the registry, and a reader of its topic."""

    store: Store
    bus: EventBus
    catalogue: Catalogue
    stub: Any
    tenant: str = "default"
    """Who asks, unless a test says otherwise."""
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    records: list[Record] = field(default_factory=list)

    async def ask(self, method: str, request: Any, tenant: str = "", name: str = "tester") -> Any:
        """Calls an RPC for somebody. Raises MeshErrors."""
        token = principal.set_current(Principal(tenant or self.tenant, name=name))
        try:
            return await getattr(self.stub, method)(request, timeout=GUARD_S)
        finally:
            principal.reset_current(token)

    async def create(self, spec: AgentSpec, tenant: str = "", agent_id: str = "") -> str:
        request = pb.CreateAgentRequest(spec=spec, agent_id=agent_id)
        made: pb.CreateAgentResponse = await self.ask("CreateAgent", request, tenant)
        return made.agent_id

    async def events(self, tenant: str, count: int) -> list[AgentLifecycleEvent]:
        """All events of a tenant's agents, in their order, once there are `count` of them."""

        def found() -> list[AgentLifecycleEvent]:
            events = [decode_value(record, AgentLifecycleEvent) for record in self.records]
            return [event for event in events if event.tenant == tenant]

        async with asyncio.timeout(GUARD_S), self.news:
            await self.news.wait_for(lambda: len(found()) >= count)
        return found()


def spec_of(name: str = "night-shift", **more: Any) -> AgentSpec:
    return AgentSpec(name=name, **more)


def struct_of(values: Mapping[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


@contextlib.asynccontextmanager
async def opened(database: str, folder: Path) -> AsyncIterator[tuple[Store, EventBus]]:
    """The store and the bus of one process."""
    settings = load(AgentsSettings, data_dir=folder)
    store = await Store.open(database, schema="agents", migrations=MIGRATIONS)
    bus = create_bus(settings, service="agents", pool=store.pool)
    await bus.start()
    try:
        yield store, bus
    finally:
        await bus.close()
        await store.close()


@contextlib.asynccontextmanager
async def serving(database: str, folder: Path, **limits: int) -> AsyncIterator[Rig]:
    """A registry without built-in agents that serves, and a reader that has caught up."""
    async with opened(database, folder) as (store, bus):
        catalogue, book = Catalogue(store), Book()
        await catalogue.load()
        telemetry = Telemetry("test")
        server = GrpcServer("agents", host="127.0.0.1", port=0, admin_port=None, telemetry=telemetry)
        changes = Changes(store, bus, catalogue, book, **limits)
        server.add(add_AgentRegistryServiceServicer_to_server, RegistryServicer(store, changes, book))
        tell_at_once(server, book)
        await server.start()
        clients = ClientFactory("test", telemetry=telemetry, retry=RetryPolicy(retries=0))
        stub = clients.stub(AgentRegistryServiceStub, f"127.0.0.1:{server.port}")
        rig = Rig(store, bus, catalogue, stub)

        async def note(records: Sequence[Record]) -> None:
            async with rig.news:
                rig.records.extend(records)
                rig.news.notify_all()

        reader = bus.broadcast(["agent-lifecycle"], note)
        tasks = [asyncio.create_task(reader.run()), asyncio.create_task(catalogue.run())]
        try:
            async with asyncio.timeout(GUARD_S):
                await reader.caught_up.wait()
            yield rig
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await clients.close()
            await server.stop()


async def until(holds: Any) -> None:
    """Waits until something is so; for what comes by itself."""
    async with asyncio.timeout(GUARD_S):
        while not holds():
            await asyncio.sleep(0.01)
