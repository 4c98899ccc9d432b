"""Changes of agents: each one transaction that judges it, makes a version of it and publishes its event.

Changes follow each other (`registry_store.begin`), so what is judged is what is changed. Each is safe to
repeat: one that was made before, from the same version, is told as made.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg
from google.protobuf.struct_pb2 import Struct
from waymesh.agent.v1 import definition_pb2 as pb
from waymesh.agent.v1.definition_pb2 import AgentSpec, Capability

from services.agents import registry_faults as refuse
from services.agents import registry_store, spec_rules
from services.agents.catalogue import Catalogue, unknown
from services.agents.lifecycle import event_of, message_of
from services.agents.registry import CapabilityBook, Stored, Version, derived_id, normalised, same
from services.agents.registry_store import Beginning
from services.mesh.chain.server.validation import invalid
from services.mesh.errors import FieldViolation
from services.mesh.events import EventBus, Message
from services.mesh.principal import Principal
from services.mesh.store import Store

# Who changed something, where no key and no service says its name.
_NAMELESS: Final = "unnamed"


@dataclass(frozen=True, slots=True)
class Changed:
    """The agent as it is now. `duplicate`: nothing was changed, it had been before, or was so already."""

    agent: Stored
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to become of an agent."""

    change: pb.AgentChange.ValueType
    spec: AgentSpec
    reverted_to: int = 0
    capability_id: str = ""


# What is wished of an agent as it is now; None: nothing that it is not already.
_Judge = Callable[[asyncpg.Connection, Stored], Awaitable[Wish | None]]
# Whether a version is what the same change made when it came first.
_Replay = Callable[[Version], bool]


async def record(
    conn: asyncpg.Connection,
    begun: Beginning,
    before: Stored,
    wish: Wish,
    by: str,
    *,
    by_software: bool = False,
) -> tuple[Stored, Message]:
    """Makes the next version of an agent, which may have had none; publish the message last."""
    version = Version(
        version=before.version + 1,
        change=wish.change,
        spec=wish.spec,
        changed_by=by,
        # The server's clock may have been put back.
        changed_at=max(begun.at, before.updated_at),
        reverted_to=wish.reverted_to,
        capability_id=wish.capability_id,
        by_software=by_software,
    )
    made = replace(
        before,
        version=version.version,
        spec=wish.spec,
        updated_at=version.changed_at,
        deleted_at=version.changed_at if wish.change == pb.AGENT_CHANGE_DELETED else None,
        changed=begun.number,
    )
    await registry_store.save(conn, made, version)
    return made, message_of(event_of(made, version))


def unborn(
    tenant: str, agent_id: str, spec: AgentSpec, begun: Beginning, *, built_in: bool = False
) -> Stored:
    """An agent before its first version."""
    return Stored(tenant, agent_id, spec.name, built_in, 0, spec, begun.at, begun.at, None, begun.number)


class _NoPlaceError(Exception):
    """The tenant has as many agents as it may have.

    Within the transaction what is said of that would be taken for a conflict of the store.
    """


class Changes:
    """All that callers may change. `max_agents` of a tenant live at most, those built in not counted."""

    def __init__(
        self,
        store: Store,
        bus: EventBus,
        catalogue: Catalogue,
        book: CapabilityBook,
        *,
        max_agents: int = 1000,
    ) -> None:
        self._store = store
        self._bus = bus
        self._catalogue = catalogue
        self._book = book
        self._max_agents = max_agents
        # Changes wait for each other in any case: here, so that they do not hold connections meanwhile.
        self._turn = asyncio.Lock()

    async def create(self, who: Principal, agent_id: str, spec: AgentSpec) -> Changed:
        """A new agent; with an empty `agent_id`, one is made.

        Raises AlreadyExists, FailedPrecondition (deleted since), ResourceExhausted, InvalidArgument.
        """
        spec = normalised(spec)
        self._check(spec)
        async with self._transaction() as conn:
            begun = await registry_store.begin(conn)
            changed = await self._create(conn, begun, who, agent_id, spec)
        # A duplicate, too, here and below: whoever asked first may have gone between the commit and this.
        self._catalogue.take(changed.agent)
        return changed

    async def update(self, who: Principal, agent: str, expected: int, spec: AgentSpec) -> Changed:
        """Other content, in place of version `expected`.

        Raises NotFound, PermissionDenied, FailedPrecondition (deleted), Aborted (stale), AlreadyExists
        (name), InvalidArgument.
        """
        wish = Wish(pb.AGENT_CHANGE_UPDATED, normalised(spec))
        self._check(wish.spec)

        async def judge(_conn: asyncpg.Connection, stored: Stored) -> Wish | None:
            return None if same(stored.spec, wish.spec) else wish

        def replay(version: Version) -> bool:
            return version.change == wish.change and same(version.spec, wish.spec)

        return await self._change(who, agent, expected, judge, replay)

    async def delete(self, who: Principal, agent: str, expected: int) -> Changed:
        """Out of use; `expected` 0, here and below: whichever version is the newest.

        Raises NotFound, FailedPrecondition (built in), Aborted (stale).
        """

        async def judge(_conn: asyncpg.Connection, stored: Stored) -> Wish | None:
            return None if stored.deleted_at is not None else Wish(pb.AGENT_CHANGE_DELETED, stored.spec)

        def replay(version: Version) -> bool:
            return version.change == pb.AGENT_CHANGE_DELETED

        return await self._change(who, agent, expected, judge, replay, refusal=refuse.stays, of_deleted=True)

    async def revert(self, who: Principal, agent: str, to: int, expected: int) -> Changed:
        """What it was in version `to`; a deleted agent comes back.

        Raises NotFound (agent or version), PermissionDenied, Aborted (stale), AlreadyExists (name),
        ResourceExhausted (of a deleted one), and InvalidArgument if that version breaks a rule of today.
        """

        async def judge(conn: asyncpg.Connection, stored: Stored) -> Wish | None:
            target = None
            if to <= stored.version:
                target = await registry_store.version(conn, stored.tenant, stored.agent_id, to)
            if target is None:
                raise refuse.no_version(stored, to)
            if stored.deleted_at is None and same(stored.spec, target.spec):
                return None
            broken = spec_rules.faults(target.spec, self._book)
            if broken:
                text = f"cannot be gone back to: {broken[0].field} {broken[0].description}"
                raise invalid([FieldViolation("version", text)])
            return Wish(pb.AGENT_CHANGE_REVERTED, target.spec, reverted_to=to)

        def replay(version: Version) -> bool:
            return version.change == pb.AGENT_CHANGE_REVERTED and version.reverted_to == to

        return await self._change(who, agent, expected, judge, replay, of_deleted=True)

    async def add_capability(
        self, who: Principal, agent: str, capability_id: str, config: Struct, expected: int
    ) -> Changed:
        """One more tool, or one configured anew.

        Raises NotFound (agent or tool), PermissionDenied, FailedPrecondition (deleted), Aborted (stale),
        InvalidArgument.
        """
        if capability_id not in self._book.names:
            raise refuse.no_capability(capability_id)
        broken = spec_rules.config_faults(self._book, capability_id, config, "config")
        if broken:
            raise invalid(broken)

        def equipped(spec: AgentSpec) -> AgentSpec:
            made = AgentSpec()
            made.CopyFrom(spec)
            others = [one for one in made.capabilities if one.capability_id != capability_id]
            del made.capabilities[:]
            made.capabilities.extend([*others, Capability(capability_id=capability_id, config=config)])
            return normalised(made)

        async def judge(_conn: asyncpg.Connection, stored: Stored) -> Wish | None:
            spec = equipped(stored.spec)
            if same(stored.spec, spec):
                return None
            if len(spec.capabilities) > spec_rules.MAX_CAPABILITIES:
                text = f"would be one more than the {spec_rules.MAX_CAPABILITIES} that an agent may have"
                raise invalid([FieldViolation("capability_id", text)])
            return Wish(pb.AGENT_CHANGE_CAPABILITY_ADDED, spec, capability_id=capability_id)

        def replay(version: Version) -> bool:
            if version.change != pb.AGENT_CHANGE_CAPABILITY_ADDED or version.capability_id != capability_id:
                return False
            return same(version.spec, equipped(version.spec))

        return await self._change(who, agent, expected, judge, replay)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """That of one change."""
        try:
            async with self._turn, self._store.transaction() as conn:
                yield conn
        except _NoPlaceError:
            raise refuse.too_many(self._max_agents) from None

    async def _create(
        self, conn: asyncpg.Connection, begun: Beginning, who: Principal, agent_id: str, spec: AgentSpec
    ) -> Changed:
        namesake = await registry_store.named(conn, who.tenant, spec.name)
        known = await registry_store.own(conn, who.tenant, agent_id) if agent_id else namesake
        if known is not None:
            first = await registry_store.version(conn, known.tenant, known.agent_id, 1)
            if first is None or not same(first.spec, spec):
                raise refuse.conflict(known) if agent_id else refuse.name_taken(known)
            if known.deleted_at is not None:
                raise refuse.deleted(known)
            return Changed(known, duplicate=True)
        if namesake is not None:
            raise refuse.name_taken(namesake)
        await self._require_place(conn, who.tenant)
        agent_id = agent_id or await _free_id(conn, who.tenant, spec.name)
        before = unborn(who.tenant, agent_id, spec, begun)
        made, message = await record(conn, begun, before, Wish(pb.AGENT_CHANGE_CREATED, spec), _name(who))
        await self._bus.publish(conn, [message])
        return Changed(made)

    async def _change(
        self,
        who: Principal,
        agent: str,
        expected: int,
        judge: _Judge,
        replay: _Replay,
        *,
        refusal: Callable[[Stored], Exception] = refuse.not_yours,
        of_deleted: bool = False,
    ) -> Changed:
        async with self._transaction() as conn:
            begun = await registry_store.begin(conn)
            stored = await registry_store.find(conn, who.tenant, agent, own_first=True)
            if stored is None:
                raise unknown(agent)
            if stored.built_in and (stored.tenant != who.tenant or refusal is refuse.stays):
                raise refusal(stored)
            if stored.deleted_at is not None and not of_deleted:
                raise refuse.deleted(stored)
            changed = None
            if expected in (0, stored.version):
                changed = await self._grant(conn, begun, who, stored, judge)
            elif await _made_before(conn, stored, expected, replay):
                changed = Changed(stored, duplicate=True)
        if changed is None:
            # Within the transaction it would be taken for a conflict of the store, which is over by itself.
            raise refuse.stale(stored)
        self._catalogue.take(changed.agent)
        return changed

    async def _grant(
        self, conn: asyncpg.Connection, begun: Beginning, who: Principal, stored: Stored, judge: _Judge
    ) -> Changed:
        wish = await judge(conn, stored)
        if wish is None:
            return Changed(stored, duplicate=True)
        if wish.change != pb.AGENT_CHANGE_DELETED:
            namesake = await registry_store.named(conn, stored.tenant, wish.spec.name)
            if namesake is not None and namesake.agent_id != stored.agent_id:
                raise refuse.name_taken(namesake)
            if stored.deleted_at is not None:
                await self._require_place(conn, stored.tenant)
        made, message = await record(conn, begun, stored, wish, _name(who))
        await self._bus.publish(conn, [message])
        return Changed(made)

    async def _require_place(self, conn: asyncpg.Connection, tenant: str) -> None:
        """Before one more lives."""
        if await registry_store.has_as_many(conn, tenant, self._max_agents):
            raise _NoPlaceError

    def _check(self, spec: AgentSpec) -> None:
        broken = spec_rules.faults(spec, self._book)
        if broken:
            raise invalid(broken)


async def _made_before(conn: asyncpg.Connection, stored: Stored, expected: int, replay: _Replay) -> bool:
    if expected >= stored.version:
        return False
    made = await registry_store.version(conn, stored.tenant, stored.agent_id, expected + 1)
    return made is not None and replay(made)


async def _free_id(conn: asyncpg.Connection, tenant: str, name: str) -> str:
    number = await registry_store.created_as(conn, tenant, name)
    # Somebody may have given another agent the identity that would be made.
    while await registry_store.own(conn, tenant, agent_id := derived_id(tenant, name, number)) is not None:
        number += 1
    return agent_id


def _name(who: Principal) -> str:
    return who.name or who.key or _NAMELESS
