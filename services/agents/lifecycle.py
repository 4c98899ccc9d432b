"""What others are told when an agent changes: one event for each version (topic `agent-lifecycle`)."""

from typing import Final

from waymesh.agent.v1 import definition_pb2 as pb

from services.agents.registry import Stored, Version
from services.mesh.events import Message, encode_value, tenants
from services.mesh.events.bus import JSON
from services.mesh.events.topics import AGENT_LIFECYCLE
from services.mesh.tenancy import qualify

_TYPES: Final = {
    pb.AGENT_CHANGE_CREATED: "agent.created",
    pb.AGENT_CHANGE_UPDATED: "agent.updated",
    pb.AGENT_CHANGE_CAPABILITY_ADDED: "agent.capability_added",
    # Also where it brings a deleted agent back: `reverted_to` says so.
    pb.AGENT_CHANGE_REVERTED: "agent.updated",
    pb.AGENT_CHANGE_DELETED: "agent.deleted",
}


def event_of(agent: Stored, version: Version) -> pb.AgentLifecycleEvent:
    """The event of a version, which is always the same."""
    event = pb.AgentLifecycleEvent(
        event_id=event_id(agent.tenant, agent.agent_id, version.version),
        type=_TYPES[version.change],
        agent_id=agent.agent_id,
        name=version.spec.name,
        tenant=agent.tenant,
        version=version.version,
        capability_id=version.capability_id,
        reverted_to=version.reverted_to,
        changed_by=version.changed_by,
    )
    event.timestamp.FromDatetime(version.changed_at)
    return event


def event_id(tenant: str, agent_id: str, version: int) -> str:
    """Identity of a version's event. Two tenants may have agents of one id; neither holds `/` or `@`."""
    return f"{tenant}/{agent_id}@{version}"


def message_of(event: pb.AgentLifecycleEvent) -> Message:
    """The event as it is published; the events of an agent keep their order."""
    return Message(
        AGENT_LIFECYCLE,
        qualify(event.tenant, event.agent_id),
        encode_value(event, JSON),
        event.event_id,
        pb.AgentLifecycleEvent.DESCRIPTOR.full_name,
        JSON,
        tenants.headers(event.tenant),
    )
