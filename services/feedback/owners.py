"""Whose a record is. Stored are its plain ids, in the body, and the qualified ones, in the columns.

So what is stored and published says the same whoever's it is, and columns tell tenants apart. What a tenant
sends has plain ids; what the mesh sends, which may be of several tenants, has qualified ones.
"""

from collections.abc import Sequence
from typing import Final, TypeVar

from google.protobuf.message import Message
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.principal import MESH_TENANT
from services.mesh.tenancy import qualify, qualify_message, split, tenant_of

M = TypeVar("M", bound=Message)

OUTCOME_IDS: Final = (
    "event_id", "run_id", "agent_name", "correlation_id", "workflow_id", "parent_event_id",
)  # fmt: skip


def taken(message: Message, sender: str, told_by: str, ids: Sequence[str]) -> str:
    """Whose the record is; its `ids` become plain, in place. `sender`: a tenant, or the mesh.

    `told_by`: the field that tells of what the mesh sends. An id in it that is not of that tenant is one that
    nobody has qualified.
    """
    if sender != MESH_TENANT:
        return sender
    owner = tenant_of(getattr(message, told_by))
    for name in ids:
        value = getattr(message, name)
        if "/" in value:
            tenant, plain = split(value)
            if tenant == owner:
                setattr(message, name, plain)
    return owner


def outcome_taken(event: OutcomeEvent, sender: str) -> str:
    """`taken` of an outcome."""
    return taken(event, sender, "event_id", OUTCOME_IDS)


def sent(sender: str, identity: str) -> str:
    """The qualified id of what `sender` sends."""
    return identity if sender == MESH_TENANT else qualify(sender, identity)


def shown(kind: type[M], tenant: str, body: bytes) -> M:
    """What is stored of the tenant, with qualified ids."""
    message = kind.FromString(body)
    qualify_message(message, tenant)
    return message
