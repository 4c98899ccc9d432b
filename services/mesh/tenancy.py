"""Whose an id is: qualified where services keep and look things up, plain where anybody is told of it.

Within a service that holds things of several tenants an id is a qualified one. So nobody can name what is
another's, and ids that two tenants have both chosen are two ids. Which fields hold such ids is said in the
contracts (`waymesh.mesh.v1.tenant_scoped`).

Of the default tenant an id stands as it is, unless it has a `/`; of all others, and of that, it is
`tenant/id`. A tenant's name has no `/`, so each pair has a qualified id of its own, which names it alone.
The empty id, which stands for none, stays empty.
"""

from typing import TypeVar

from google.protobuf.message import Message

from services.mesh._tenancy_ids import ForeignTenantError, plain, plain_text, qualify, split, tenant_of
from services.mesh._tenancy_plan import is_marked, plain_error, plan_of
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT

__all__ = [
    "ForeignTenantError",
    "is_marked",
    "plain",
    "plain_copy",
    "plain_error",
    "plain_message",
    "plain_text",
    "qualify",
    "qualify_message",
    "split",
    "tenant_of",
]

M = TypeVar("M", bound=Message)


def qualify_message(message: Message, tenant: str) -> None:
    """Qualifies the ids in a message, in place; those in one that is sent for the mesh are qualified."""
    if tenant == MESH_TENANT:
        return
    plan = plan_of(type(message))
    if tenant != DEFAULT_TENANT or plan.marked(message):
        plan.qualify(message, tenant)


def plain_message(message: M, tenant: str) -> M:
    """The message as the tenant may see it: itself, if its ids are plain, else a copy. To the mesh, itself.

    Raises ForeignTenantError if one of the ids is not the tenant's.
    """
    if tenant == MESH_TENANT or (tenant == DEFAULT_TENANT and not plan_of(type(message)).marked(message)):
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    plan_of(type(message)).plain(copy, tenant)
    return copy


def plain_copy(message: M) -> M:
    """The message with plain ids, whoever's they are: for the contract's rules, which are about those."""
    copy = type(message)()
    copy.CopyFrom(message)
    plan_of(type(message)).plain(copy, MESH_TENANT)
    return copy
