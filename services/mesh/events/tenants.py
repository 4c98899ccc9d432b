"""Whose an event is: its value holds plain ids, its key the qualified one, and a header names the tenant.

So consumers outside of the mesh see ids as their tenants know them, and yet events of two tenants about ids
that both have chosen have keys of their own: order per key, and compaction, keep them apart. An event of the
default tenant has no such header.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

from google.protobuf.message import Message as Proto

from services.mesh import logs, request_id, tenancy
from services.mesh.errors import InvalidArgument
from services.mesh.events.bus import PROTOBUF, Message, PoisonMessage, Record
from services.mesh.events.codec import decode_value, encode_value
from services.mesh.principal import DEFAULT_TENANT, TENANT_KEY, is_tenant

P = TypeVar("P", bound=Proto)


def tenant_of(record: Record) -> str:
    """Whose event it is. Raises PoisonMessage where that cannot be read: nobody gets another's by a slip."""
    tenant = record.headers.get(TENANT_KEY)
    if tenant is None:
        return DEFAULT_TENANT
    if not is_tenant(tenant):
        raise PoisonMessage(record, f"header {TENANT_KEY} names no tenant: {tenant!r}")
    return tenant


def headers(tenant: str) -> Mapping[str, str]:
    """What goes along with an event of this tenant that is made now, the request's id included."""
    if tenant == DEFAULT_TENANT:
        return request_id.headers()
    return headers_of(logs.request_id.get(), tenant)


@lru_cache(maxsize=1024)
def headers_of(request: str, tenant: str) -> Mapping[str, str]:
    """What goes along with an event of this tenant that follows from this request; of none if it is empty."""
    served = request_id.headers_of(request)
    return served if tenant == DEFAULT_TENANT else MappingProxyType({**served, TENANT_KEY: tenant})


def event(topic: str, key: str, value: Proto, event_id: str, *, content_type: str = PROTOBUF) -> Message:
    """An event about what the qualified `key` names, and of its tenant; the ids in `value` are qualified too.

    Raises ForeignTenantError if one of them is another tenant's.
    """
    tenant = tenancy.tenant_of(key)
    return Message(
        topic=topic,
        key=key,
        value=encode_value(tenancy.plain_message(value, tenant), content_type),
        event_id=event_id,
        type=value.DESCRIPTOR.full_name,
        content_type=content_type,
        headers=headers(tenant),
    )


def read(record: Record, kind: type[P], check: Callable[[P], None] | None = None) -> P:
    """The value as a message with qualified ids. PoisonMessage if it is none, or if `check` refuses it.

    `check` sees it with plain ids, which the rules of the contract are about; it raises InvalidArgument.
    """
    message = decode_value(record, kind)
    if check is not None:
        try:
            check(message)
        except InvalidArgument as error:
            raise PoisonMessage(record, error.message) from error
    tenancy.qualify_message(message, tenant_of(record))
    return message
