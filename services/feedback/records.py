"""Deliveries and signals as rows: identity, digest of the content, the columns that are filtered by.

Ids in columns are qualified, those in bodies plain: see owners.py.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.signal_pb2 import Signal

from services.feedback.owners import taken
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from services.mesh.redact import redact_labels
from services.mesh.tenancy import plain_copy, qualify

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Kind(Generic[M]):
    """How one kind is kept: its name in `heads`, its table, its class, its columns besides the common ones.

    `columns` maps a column to its PostgreSQL type and to how it is read from the message. `ids` are fields
    that hold ids of a tenant; `told_by` is the one that tells whose a record is.
    """

    name: str
    table: str
    message: type[M]
    identity: Callable[[M], str]
    ids: tuple[str, ...]
    told_by: str
    at: Callable[[M], Timestamp]
    columns: Mapping[str, tuple[str, Callable[[M], Any]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A record ready to be stored."""

    id: str
    digest: bytes
    at: datetime
    values: tuple[Any, ...]
    body: bytes


DELIVERIES: Final[Kind[DeliveryOutcome]] = Kind(
    "delivery",
    "deliveries",
    DeliveryOutcome,
    lambda outcome: outcome.outcome_id,
    ("outcome_id", "order_id", "driver_id"),
    "order_id",
    lambda outcome: outcome.delivered_at,
    {
        "order_id": ("text", lambda outcome: outcome.order_id),
        "driver_id": ("text", lambda outcome: outcome.driver_id),
    },
)
SIGNALS: Final[Kind[Signal]] = Kind(
    "signal",
    "signals",
    Signal,
    lambda signal: signal.signal_id,
    ("signal_id", "subject"),
    "subject",
    lambda signal: signal.timestamp,
    {
        "kind": ("smallint", lambda signal: signal.kind),
        "source": ("text", lambda signal: signal.source),
        "subject": ("text", lambda signal: signal.subject),
        "active": ("boolean", lambda signal: signal.active),
    },
)


def owner(kind: Kind[M], message: M, sender: str) -> str:
    """Whose a record is that `sender` sends, a tenant or the mesh; its ids become plain, in place."""
    found = taken(message, sender, kind.told_by, kind.ids)
    if sender == MESH_TENANT and isinstance(message, DeliveryOutcome) and message.HasField("context"):
        message.context.CopyFrom(plain_copy(message.context))
    return found


def row(kind: Kind[M], message: M, tenant: str = DEFAULT_TENANT) -> Row:
    """The message, with plain ids, as a row of the tenant.

    The same content gives the same digest, whatever the order of map entries.
    """
    message.DiscardUnknownFields()  # nobody can tell whether there are secrets in them
    if isinstance(message, DeliveryOutcome) and message.context.labels:
        redact_labels(message.context.labels)
    body = message.SerializeToString(deterministic=True)
    return Row(
        id=qualify(tenant, kind.identity(message)),
        digest=hashlib.sha256(body).digest(),
        at=kind.at(message).ToDatetime(UTC),
        values=tuple(
            qualify(tenant, read(message)) if name in kind.ids else read(message)
            for name, (_, read) in kind.columns.items()
        ),
        body=body,
    )


def first_of_each(rows: Sequence[Row]) -> dict[str, int]:
    """Id to the place where it comes first: within a batch, too, only the first one counts."""
    places: dict[str, int] = {}
    for place, one in enumerate(rows):
        places.setdefault(one.id, place)
    return places
