"""What is kept of a message: its bytes with plain ids, as the tenant gave them. Pure.

So bytes and digests are those of what was sent, and whose they are stands in the key of the row alone.
"""

from typing import TypeVar

from google.protobuf.message import Message

from services.mesh import tenancy

M = TypeVar("M", bound=Message)


def to_body(message: Message, key: str) -> bytes:
    """The bytes to keep in the row of this qualified id."""
    plain = tenancy.plain_message(message, tenancy.tenant_of(key))
    return plain.SerializeToString(deterministic=True)


def from_body(kind: type[M], body: bytes, key: str) -> M:
    """The message, with qualified ids, of bytes from the row of this id."""
    message = kind.FromString(body)
    tenancy.qualify_message(message, tenancy.tenant_of(key))
    return message
