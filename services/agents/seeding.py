"""The built-in agents in the store: there from the first start on, and renewed with the software."""

import logging
from collections.abc import Sequence
from typing import Final

import asyncpg
from waymesh.agent.v1 import definition_pb2 as pb

from services.agents import registry_store
from services.agents.builtin import BuiltIn
from services.agents.changes import Wish, record, unborn
from services.agents.registry import BUILT_IN_TENANT, Stored, normalised, same
from services.agents.registry_store import Beginning
from services.mesh.events import EventBus, Message
from services.mesh.store import Store

_log = logging.getLogger(__name__)

SOFTWARE: Final = "waymesh"
"""Who makes these versions."""


async def seed(store: Store, bus: EventBus, agents: Sequence[BuiltIn]) -> int:
    """Sees that the built-in agents are there and say what this software says; how many versions that took.

    What people changed stays. So does what newer software wrote: content that an earlier start has written is
    not written again, and processes of two releases do not take turns. Safe in several processes at once.
    """
    async with store.transaction() as conn:
        begun = await registry_store.begin(conn)
        messages: list[Message] = []
        for agent in agents:
            message = await _seed(conn, begun, agent)
            if message is not None:
                messages.append(message)
                begun = Beginning(begun.number + 1, begun.at)
        if messages:
            await bus.publish(conn, messages)
    return len(messages)


async def _seed(conn: asyncpg.Connection, begun: Beginning, agent: BuiltIn) -> Message | None:
    spec = normalised(agent.spec)
    known = await registry_store.own(conn, BUILT_IN_TENANT, agent.agent_id)
    if known is None:
        before = unborn(BUILT_IN_TENANT, agent.agent_id, spec, begun, built_in=True)
        wish = Wish(pb.AGENT_CHANGE_CREATED, spec)
    else:
        before, wish = known, Wish(pb.AGENT_CHANGE_UPDATED, spec)
        if known.built_in and not await _is_outdated(conn, known, spec):
            return None
    namesake = await registry_store.named(conn, BUILT_IN_TENANT, spec.name)
    if not before.built_in or (namesake is not None and namesake.agent_id != agent.agent_id):
        _log.warning("agent %s cannot be built in: another agent has its place", agent.agent_id)
        return None
    return (await record(conn, begun, before, wish, SOFTWARE, by_software=True))[1]


async def _is_outdated(conn: asyncpg.Connection, known: Stored, spec: pb.AgentSpec) -> bool:
    ours = await registry_store.by_software(conn, known.tenant, known.agent_id)
    if not ours or ours[-1].version != known.version:
        return False
    return not any(same(one.spec, spec) for one in ours)
