"""Outcomes as rows, packed as PostgreSQL's binary COPY takes them in.

An object per value would cost more than all the rest of storing it.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import qualify

OUTCOME_COLUMNS: Final = (
    "number", "stored_at", "at", "status", "severity", "latency_ms", "tokens_used", "cost_estimate",
    "started", "ended", "id", "agent_name", "workflow_id", "error_type", "body",
)  # fmt: skip
ID_COLUMNS: Final = ("id", "digest", "number")

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
# Each value follows its length in bytes.
_PLACE: Final = struct.Struct(">hiqiq")
_FIXED: Final = struct.Struct(">iqihihidiqid")
_BIGINT: Final = struct.Struct(">iq")
_LENGTH: Final = struct.Struct(">i")
_FIELDS: Final = struct.Struct(">h")
_DIGEST_BYTES: Final = 16
# PostgreSQL counts time in microseconds from 2000 on.
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_S: Final = int(_EPOCH.timestamp())
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(slots=True)
class OutcomeRow:
    """An outcome ready to be stored."""

    id: str
    """Qualified, as other ids in columns; the body has plain ones."""
    digest: bytes
    body: bytes
    packed: bytes
    """The columns from `at` on."""


def outcome_row(event: OutcomeEvent, tenant: str = DEFAULT_TENANT) -> OutcomeRow:
    """The event, with plain ids, as a row of the tenant.

    The same content gives the same digest, whatever the order of map entries.
    """
    body = event.SerializeToString(deterministic=True)
    values = [
        _FIXED.pack(
            8, _micros(event.timestamp),
            2, event.status,
            2, event.severity,
            8, event.latency_ms,
            8, event.tokens_used,
            8, event.cost_estimate,
        ),
        _BIGINT.pack(8, _micros(event.start_time)) if event.HasField("start_time") else _NULL,
        _BIGINT.pack(8, _micros(event.end_time)) if event.HasField("end_time") else _NULL,
    ]  # fmt: skip
    one = qualify(tenant, event.event_id)
    agent_name, workflow_id = qualify(tenant, event.agent_name), qualify(tenant, event.workflow_id)
    for text in (one, agent_name, workflow_id, event.error_type):
        raw = text.encode()
        values += (_LENGTH.pack(len(raw)), raw)
    values += (_LENGTH.pack(len(body)), body)
    digest = hashlib.sha256(body).digest()[:_DIGEST_BYTES]
    return OutcomeRow(one, digest, body, b"".join(values))


def pack_outcomes(rows: Iterable[OutcomeRow], first: int, stored_at: datetime) -> bytes:
    """The rows of OUTCOME_COLUMNS, numbered from `first` on."""
    stored, width, pack = (stored_at - _EPOCH) // _MICROSECOND, len(OUTCOME_COLUMNS), _PLACE.pack
    parts = [_HEADER]
    for number, row in enumerate(rows, first):
        parts += (pack(width, 8, number, 8, stored), row.packed)
    parts.append(_TRAILER)
    return b"".join(parts)


def pack_ids(rows: Iterable[OutcomeRow], first: int) -> bytes:
    """The rows of ID_COLUMNS, numbered from `first` on."""
    width, length, bigint = _FIELDS.pack(len(ID_COLUMNS)), _LENGTH.pack, _BIGINT.pack
    digest_length = length(_DIGEST_BYTES)
    parts = [_HEADER]
    for number, row in enumerate(rows, first):
        raw = row.id.encode()
        parts += (width, length(len(raw)), raw, digest_length, row.digest, bigint(8, number))
    parts.append(_TRAILER)
    return b"".join(parts)


def first_places(rows: Sequence[OutcomeRow]) -> dict[str, int]:
    """Id to the place where it comes first: within a batch, too, only the first one counts."""
    places: dict[str, int] = {}
    for place, one in enumerate(rows):
        places.setdefault(one.id, place)
    return places


def _micros(stamp: Timestamp) -> int:
    return (stamp.seconds - _EPOCH_S) * 1_000_000 + stamp.nanos // 1000
