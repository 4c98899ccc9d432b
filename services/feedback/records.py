"""Deliveries and signals as rows: identity, digest of the content, the columns that are filtered by."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.signal_pb2 import Signal

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Kind(Generic[M]):
    """How one kind is kept: its name in `heads`, its table, its class, its columns besides the common ones.

    `columns` maps a column to its PostgreSQL type and to how it is read from the message.
    """

    name: str
    table: str
    message: type[M]
    identity: Callable[[M], str]
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
    lambda signal: signal.timestamp,
    {
        "kind": ("smallint", lambda signal: signal.kind),
        "source": ("text", lambda signal: signal.source),
        "subject": ("text", lambda signal: signal.subject),
        "active": ("boolean", lambda signal: signal.active),
    },
)


def row(kind: Kind[M], message: M) -> Row:
    """The message as a row. The same content gives the same digest, whatever the order of map entries."""
    message.DiscardUnknownFields()  # nobody can tell whether there are secrets in them
    body = message.SerializeToString(deterministic=True)
    return Row(
        id=kind.identity(message),
        digest=hashlib.sha256(body).digest(),
        at=kind.at(message).ToDatetime(UTC),
        values=tuple(read(message) for _, read in kind.columns.values()),
        body=body,
    )


def first_of_each(rows: Sequence[Row]) -> dict[str, int]:
    """Id to the place where it comes first: within a batch, too, only the first one counts."""
    places: dict[str, int] = {}
    for place, one in enumerate(rows):
        places.setdefault(one.id, place)
    return places
