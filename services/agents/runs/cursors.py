"""Cursors of streams and page tokens of lists: opaque to clients, checked when they come back.

A cursor says how much of a run has been seen: so many events and so many characters of text, which may lie
in the middle of what others were sent in one piece. The seal tells those of other hands; it keeps no secret.
Whose run it is is looked up each time.
"""

import base64
import binascii
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final
from uuid import UUID

from waymesh.agent.v1.agent_service_pb2 import ListRunsRequest

from services.agents.runs.record import Place
from services.mesh import cursors
from services.mesh.errors import InvalidArgument

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CURSOR: Final = struct.Struct(">c16sII?8s")
_PAGE: Final = struct.Struct(">cq16s8s")
_SEAL_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Position:
    """How much of a run's stream has been seen. `last`: the answer or the error, too."""

    events: int = 0
    chars: int = 0
    last: bool = False


START: Final = Position()


def cursor_of(one: UUID, seen: Position) -> str:
    """The cursor behind what has been seen of a run."""
    return _sealed(_CURSOR, b"r", one.bytes, seen.events, seen.chars, seen.last)


def parse_cursor(cursor: str) -> tuple[UUID, Position]:
    """What a cursor says. Raises InvalidArgument with CURSOR_INVALID for one that is not ours."""
    _, one, events, chars, last = _opened(_CURSOR, b"r", cursor, "cursor")
    return UUID(bytes=one), Position(events, chars, last)


def page_token(place: Place, request: ListRunsRequest, tenant: str) -> str:
    """The token behind a page of what the request asks for."""
    micros = (place.at - _EPOCH) // timedelta(microseconds=1)
    return _sealed(_PAGE, b"l", micros, place.id.bytes, bound=_asked(request, tenant))


def parse_page_token(token: str, request: ListRunsRequest, tenant: str) -> Place:
    """The place in a token that a page of what the request asks for ended with.

    Raises InvalidArgument with CURSOR_INVALID, also for a token of other filters or another tenant.
    """
    _, micros, one = _opened(_PAGE, b"l", token, "page_token", _asked(request, tenant))
    try:
        return Place(_EPOCH + timedelta(microseconds=micros), UUID(bytes=one))
    except OverflowError:
        raise _not_ours(token, "page_token") from None


def _asked(request: ListRunsRequest, tenant: str) -> bytes:
    asked = ListRunsRequest()
    asked.CopyFrom(request)
    # Pages may differ in length.
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    # A set: whoever asks again may give them in another order.
    statuses = sorted(set(asked.statuses))
    del asked.statuses[:]
    asked.statuses.extend(statuses)
    return tenant.encode() + b"\0" + asked.SerializeToString(deterministic=True)


def _sealed(layout: struct.Struct, *values: Any, bound: bytes = b"") -> str:
    packed = layout.pack(*values, bytes(_SEAL_BYTES))[:-_SEAL_BYTES]
    return base64.urlsafe_b64encode(packed + _seal(packed, bound)).decode().rstrip("=")


def _seal(packed: bytes, bound: bytes) -> bytes:
    return blake2b(packed + bound, digest_size=_SEAL_BYTES, person=b"waymesh.run").digest()


def _opened(
    layout: struct.Struct, mark: bytes, token: str, field: str, bound: bytes = b""
) -> tuple[Any, ...]:
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        *values, seal = layout.unpack(packed)
    except (binascii.Error, struct.error, ValueError):
        raise _not_ours(token, field) from None
    if values[0] != mark or seal != _seal(packed[:-_SEAL_BYTES], bound):
        raise _not_ours(token, field)
    # One text stands for each value: no second spelling of the same.
    if base64.urlsafe_b64encode(packed).decode().rstrip("=") != token:
        raise _not_ours(token, field)
    return tuple(values)


def _not_ours(token: str, field: str) -> InvalidArgument:
    return cursors.not_ours(
        token, field, to="this request with the same filters" if field != "cursor" else ""
    )
