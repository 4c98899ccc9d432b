"""Agents as running services know them: in memory, in step with the store, whether it is there or not."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from waymesh.agent.v1.definition_pb2 import AgentSpec
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_AGENT_UNKNOWN

from services.agents import registry_store
from services.agents.registry import BUILT_IN_TENANT, Stored
from services.mesh.errors import MeshError, NotFound
from services.mesh.store import Store

_log = logging.getLogger(__name__)

# A change made in another process holds here at most this much later, in seconds, and what a look takes.
_POLL_S: Final = 0.25
# Agents that are loaded at once.
_BATCH: Final = 200

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Agent:
    """A living agent as it was when it was found: a run keeps it, whatever changes meanwhile."""

    agent_id: str
    tenant: str
    version: int
    spec: AgentSpec
    """Never changed by anybody."""
    built_in: bool

    @property
    def name(self) -> str:
        """Unique among the living agents of the tenant."""
        return self.spec.name


class Catalogue:
    """Living agents in their newest version. `load` once, then `run` for as long as the service lives."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # By tenant and identity, and by tenant and name.
        self._agents: dict[_Key, Agent] = {}
        self._names: dict[_Key, Agent] = {}
        # Every change up to this one is known here.
        self._seen = 0
        # Changes beyond it that this process has made itself.
        self._ahead: dict[_Key, int] = {}
        self._away = False

    async def load(self) -> None:
        """Learns what the store has. Raises Unavailable."""
        await self._follow()

    async def run(self) -> None:
        """Background task: follows what any process commits; keeps what it has while the store is away."""
        while True:
            try:
                await self._follow()
            except MeshError as error:
                if not self._away:
                    _log.warning("the store of agents is away; agents stay as they are: %s", error)
                self._away = True
            else:
                if self._away:
                    _log.info("the store of agents answers again")
                self._away = False
            await asyncio.sleep(_POLL_S)

    def find(self, tenant: str, agent: str) -> Agent:
        """The living agent of this identity or name: the tenant's own first, then a built-in one.

        Raises NotFound (AGENT_UNKNOWN), also where it is another tenant's.
        """
        key = (tenant, agent)
        found = self._agents.get(key) or self._names.get(key)
        if found is None and tenant != BUILT_IN_TENANT:
            key = (BUILT_IN_TENANT, agent)
            found = self._agents.get(key)
            if found is None or not found.built_in:
                found = self._names.get(key)
            if found is not None and not found.built_in:
                found = None
        if found is None:
            raise unknown(agent)
        return found

    def of(self, tenant: str) -> list[Agent]:
        """All living agents that the tenant can see, by name."""
        seen = [one for one in self._agents.values() if one.tenant == tenant or one.built_in]
        return sorted(seen, key=lambda one: one.name)

    def __len__(self) -> int:
        return len(self._agents)

    def take(self, stored: Stored) -> None:
        """Learns a change of this process at once; it must be committed."""
        key = (stored.tenant, stored.agent_id)
        if stored.changed > max(self._seen, self._ahead.get(key, 0)):
            self._ahead[key] = stored.changed
            self._put(stored)

    async def _follow(self) -> None:
        last = await registry_store.last_change(self._store)
        if last < self._seen:
            # The store was put back to an earlier state: what is here never happened.
            _log.warning("the store of agents is behind what is known of it; all agents are loaded anew")
            await self._load_anew()
            return
        while self._seen < last:
            changes = await registry_store.changed_after(self._store, self._seen, _BATCH)
            if not changes:  # agents that changed once more since are beyond what was asked for
                break
            self._learn(changes)

    async def _load_anew(self) -> None:
        fresh = Catalogue(self._store)
        await fresh._follow()
        self._agents, self._names, self._seen = fresh._agents, fresh._names, fresh._seen
        self._ahead.clear()

    def _learn(self, changes: Iterable[Stored]) -> None:
        """Changes in their order, without a gap before the first."""
        for stored in changes:
            if stored.changed > self._ahead.get((stored.tenant, stored.agent_id), 0):
                self._put(stored)
            self._seen = max(self._seen, stored.changed)
        self._ahead = {key: number for key, number in self._ahead.items() if number > self._seen}

    def _put(self, stored: Stored) -> None:
        key = (stored.tenant, stored.agent_id)
        before = self._agents.pop(key, None)
        # Another agent may have taken the name since.
        if before is not None and self._names.get((stored.tenant, before.name)) is before:
            del self._names[stored.tenant, before.name]
        if stored.deleted_at is not None:
            return
        agent = Agent(stored.agent_id, stored.tenant, stored.version, stored.spec, stored.built_in)
        self._agents[key] = agent
        self._names[stored.tenant, agent.name] = agent


def unknown(agent: str) -> NotFound:
    """The error for an agent that the caller cannot see, or that is not there."""
    asked = agent[:128]
    return NotFound(
        f"agent {asked} is not known", reason=ERROR_REASON_AGENT_UNKNOWN, metadata={"agent": asked}
    )
