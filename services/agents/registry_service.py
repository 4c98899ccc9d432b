"""AgentRegistryService: agents as data."""

import asyncio
from typing import Any, Final

from waymesh.agent.v1 import agent_registry_service_pb2 as pb
from waymesh.agent.v1.agent_registry_service_pb2_grpc import AgentRegistryServiceServicer

from services.agents import registry_faults as refuse
from services.agents import registry_pages, registry_store, spec_rules
from services.agents.catalogue import unknown
from services.agents.changes import Changes
from services.agents.registry import CapabilityBook, Stored, Version, diff
from services.agents.registry_store import Place
from services.mesh import principal
from services.mesh.errors import FieldViolation
from services.mesh.server import GrpcServer
from services.mesh.store import Store

_PAGE: Final = 100
_BEYOND: Final = 2**63 - 1
# Versions that are compared before others have their turn: some ms.
_AT_ONCE: Final = 20


def tell_at_once(server: GrpcServer, book: CapabilityBook) -> None:
    """Has whoever breaks a rule of the contract hear of those beyond it in the same answer."""

    def of_spec(request: pb.CreateAgentRequest | pb.UpdateAgentRequest) -> list[FieldViolation]:
        return spec_rules.faults(request.spec, book)

    server.tell_at_once(pb.CreateAgentRequest, of_spec)
    server.tell_at_once(pb.UpdateAgentRequest, of_spec)


class RegistryServicer(AgentRegistryServiceServicer):
    """Translates; see protos/waymesh/agent/v1/agent_registry_service.proto for what each RPC promises."""

    def __init__(self, store: Store, changes: Changes, book: CapabilityBook) -> None:
        self._store = store
        self._changes = changes
        self._book = book

    async def CreateAgent(  # noqa: N802 - the contract's name
        self, request: pb.CreateAgentRequest, context: Any
    ) -> pb.CreateAgentResponse:
        made = await self._changes.create(principal.current(), request.agent_id, request.spec)
        return pb.CreateAgentResponse(agent_id=made.agent.agent_id, duplicate=made.duplicate)

    async def GetAgent(  # noqa: N802 - the contract's name
        self, request: pb.GetAgentRequest, context: Any
    ) -> pb.GetAgentResponse:
        stored = await self._find(request.agent_id)
        if request.version in (0, stored.version):
            return pb.GetAgentResponse(agent=stored.definition())
        version = await self._version(stored, request.version)
        return pb.GetAgentResponse(agent=stored.definition(version.spec))

    async def ListAgents(  # noqa: N802 - the contract's name
        self, request: pb.ListAgentsRequest, context: Any
    ) -> pb.ListAgentsResponse:
        tenant, after = principal.current().tenant, Place()
        if request.page_token:
            after = registry_pages.parse_place(request.page_token, request, tenant)
        page, more = await registry_store.list_agents(
            self._store.pool, tenant, after, request.page_size or _PAGE, deleted=request.show_deleted
        )
        return pb.ListAgentsResponse(
            agents=[stored.definition() for _, stored in page],
            next_page_token=registry_pages.place_token(page[-1][0], request, tenant) if more else "",
        )

    async def UpdateAgent(  # noqa: N802 - the contract's name
        self, request: pb.UpdateAgentRequest, context: Any
    ) -> pb.UpdateAgentResponse:
        made = await self._changes.update(
            principal.current(), request.agent_id, request.expected_version, request.spec
        )
        return pb.UpdateAgentResponse(agent=made.agent.definition(), duplicate=made.duplicate)

    async def DeleteAgent(  # noqa: N802 - the contract's name
        self, request: pb.DeleteAgentRequest, context: Any
    ) -> pb.DeleteAgentResponse:
        made = await self._changes.delete(principal.current(), request.agent_id, request.expected_version)
        return pb.DeleteAgentResponse(agent=made.agent.definition(), duplicate=made.duplicate)

    async def ListAgentVersions(  # noqa: N802 - the contract's name
        self, request: pb.ListAgentVersionsRequest, context: Any
    ) -> pb.ListAgentVersionsResponse:
        stored = await self._find(request.agent_id)
        # A name may come to mean another agent between two pages.
        scope, below = f"{stored.tenant}/{stored.agent_id}", _BEYOND
        if request.page_token:
            below = registry_pages.parse_version(request.page_token, request, scope)
        page, more = await registry_store.list_versions(
            self._store.pool, stored.tenant, stored.agent_id, below, request.page_size or _PAGE
        )
        answer = pb.ListAgentVersionsResponse()
        for place, (version, before) in enumerate(page):
            answer.versions.append(version.told(before))
            if place % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if more:
            answer.next_page_token = registry_pages.version_token(page[-1][0].version, request, scope)
        return answer

    async def DiffAgentVersions(  # noqa: N802 - the contract's name
        self, request: pb.DiffAgentVersionsRequest, context: Any
    ) -> pb.DiffAgentVersionsResponse:
        stored = await self._find(request.agent_id)
        before = await self._version(stored, request.from_version)
        after = await self._version(stored, request.to_version or stored.version)
        return pb.DiffAgentVersionsResponse(
            from_version=before.version, to_version=after.version, changes=diff(before.spec, after.spec)
        )

    async def RevertAgent(  # noqa: N802 - the contract's name
        self, request: pb.RevertAgentRequest, context: Any
    ) -> pb.RevertAgentResponse:
        made = await self._changes.revert(
            principal.current(), request.agent_id, request.version, request.expected_version
        )
        return pb.RevertAgentResponse(agent=made.agent.definition(), duplicate=made.duplicate)

    async def AddCapability(  # noqa: N802 - the contract's name
        self, request: pb.AddCapabilityRequest, context: Any
    ) -> pb.AddCapabilityResponse:
        made = await self._changes.add_capability(
            principal.current(),
            request.agent_id,
            request.capability_id,
            request.config,
            request.expected_version,
        )
        return pb.AddCapabilityResponse(status="success", duplicate=made.duplicate)

    async def ListCapabilities(  # noqa: N802 - the contract's name
        self, request: pb.ListCapabilitiesRequest, context: Any
    ) -> pb.ListCapabilitiesResponse:
        tools = sorted(self._book.describe(), key=lambda tool: tool.capability_id)
        if not request.agent_id:
            return pb.ListCapabilitiesResponse(capabilities=tools)
        spec = (await self._find(request.agent_id)).spec
        given = {one.capability_id: one for one in spec.capabilities}
        tools = [tool for tool in tools if tool.capability_id in given]
        for tool in tools:
            capability = given[tool.capability_id]
            if capability.HasField("config"):
                tool.config.CopyFrom(capability.config)
        return pb.ListCapabilitiesResponse(capabilities=tools)

    async def _find(self, agent: str) -> Stored:
        stored = await registry_store.find(self._store.pool, principal.current().tenant, agent)
        if stored is None:
            raise unknown(agent)
        return stored

    async def _version(self, stored: Stored, number: int) -> Version:
        found = None
        if number <= stored.version:
            found = await registry_store.version(self._store.pool, stored.tenant, stored.agent_id, number)
        if found is None:
            raise refuse.no_version(stored, number)
        return found
