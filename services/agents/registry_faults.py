"""Why a change of an agent is refused."""

from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_AGENT_BUILT_IN,
    ERROR_REASON_AGENT_DELETED,
    ERROR_REASON_AGENT_LIMIT,
    ERROR_REASON_AGENT_NAME_TAKEN,
    ERROR_REASON_CAPABILITY_UNKNOWN,
    ERROR_REASON_CONFLICTING_CONTENT,
    ERROR_REASON_STALE_VERSION,
    ERROR_REASON_VERSION_UNKNOWN,
)

from services.agents.registry import Stored
from services.mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)


def stale(agent: Stored) -> Aborted:
    """Another change came first."""
    return Aborted(
        f"the agent has changed since: its newest version is {agent.version}",
        reason=ERROR_REASON_STALE_VERSION,
        metadata={"agent_id": agent.agent_id, "version": str(agent.version)},
    )


def conflict(agent: Stored) -> AlreadyExists:
    """The identity came before with other content."""
    return AlreadyExists(
        "an agent with this agent_id was created with other content",
        reason=ERROR_REASON_CONFLICTING_CONTENT,
        metadata={"id": agent.agent_id},
    )


def name_taken(agent: Stored) -> AlreadyExists:
    """`agent` has the name."""
    return AlreadyExists(
        f"another agent has the name {agent.spec.name}",
        reason=ERROR_REASON_AGENT_NAME_TAKEN,
        metadata={"name": agent.spec.name, "agent_id": agent.agent_id},
    )


def deleted(agent: Stored) -> FailedPrecondition:
    """What is deleted does not change."""
    return FailedPrecondition(
        "the agent is deleted; reverting it brings it back",
        reason=ERROR_REASON_AGENT_DELETED,
        metadata={"agent_id": agent.agent_id},
    )


def too_many(limit: int) -> ResourceExhausted:
    """The tenant has as many agents as it may have."""
    return ResourceExhausted(
        f"there are {limit} agents already, as many as a tenant may have: delete one that is not used",
        reason=ERROR_REASON_AGENT_LIMIT,
        metadata={"limit": str(limit)},
    )


def not_yours(agent: Stored) -> PermissionDenied:
    """A built-in agent belongs to one tenant."""
    return PermissionDenied(
        "the agent comes with Waymesh: create one of the same name, which goes before it",
        reason=ERROR_REASON_AGENT_BUILT_IN,
        metadata={"agent": agent.agent_id},
    )


def stays(agent: Stored) -> FailedPrecondition:
    """A built-in agent is always there."""
    return FailedPrecondition(
        "the agent comes with Waymesh and cannot be deleted",
        reason=ERROR_REASON_AGENT_BUILT_IN,
        metadata={"agent": agent.agent_id},
    )


def no_version(agent: Stored, version: int) -> NotFound:
    """The agent never had that version."""
    return NotFound(
        f"the agent never had a version {version}: its newest is {agent.version}",
        reason=ERROR_REASON_VERSION_UNKNOWN,
        metadata={"agent_id": agent.agent_id, "version": str(version)},
    )


def no_capability(name: str) -> NotFound:
    """There is no such tool."""
    return NotFound(
        f"there is no tool {name[:64]}; list_capabilities (GET /api/capabilities) tells which there are",
        reason=ERROR_REASON_CAPABILITY_UNKNOWN,
        metadata={"capability_id": name[:64]},
    )
