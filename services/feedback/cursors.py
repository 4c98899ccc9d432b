"""Page tokens and cursors: opaque to clients, checked when they come back.

A number is a place in what is stored, and good for the tenant that reads on from there, with any filters. A
place in pages that are ordered by time is sealed with the request it answers: taken for a page of another
list, or with other filters, it would leave out what it never showed. Neither is good for another tenant.
"""

import base64
import binascii
import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

from google.protobuf.message import Message

from services.feedback.store import Place
from services.mesh import cursors
from services.mesh.errors import InvalidArgument
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = struct.Struct(">cQ")
_TENANTS: Final = struct.Struct(">cQ8s")
_PLACE: Final = struct.Struct(">cqQ8s")
_SEAL_BYTES: Final = 8
_SAME: Final = "this request with the same filters"
# Their tokens are as they were before there were others: whoever has kept one goes on with it.
_UNSEALED: Final = (DEFAULT_TENANT, MESH_TENANT)


def number_token(number: int, tenant: str = DEFAULT_TENANT) -> str:
    """A token for a dense number."""
    if tenant in _UNSEALED:
        return _encode(_NUMBER.pack(b"n", number))
    return _encode(_TENANTS.pack(b"t", number, _owner(tenant)))


def parse_number(token: str, field: str, tenant: str = DEFAULT_TENANT) -> int:
    """The number in a token. Raises InvalidArgument with CURSOR_INVALID."""
    if tenant in _UNSEALED:
        mark, number = _decode(_NUMBER, token, field)
        ours = mark == b"n"
    else:
        mark, number, owner = _decode(_TENANTS, token, field)
        ours = mark == b"t" and owner == _owner(tenant)
    if not ours:
        raise _not_ours(_NUMBER, token, field)
    return int(number)


def place_token(place: Place, request: Message, tenant: str = DEFAULT_TENANT) -> str:
    """A token for the end of a page of what the request asks for, ordered by time."""
    micros = (place.at - _EPOCH) // timedelta(microseconds=1)
    return _encode(_PLACE.pack(b"p", micros, place.number, _seal(micros, place.number, request, tenant)))


def parse_place(token: str, field: str, request: Message, tenant: str = DEFAULT_TENANT) -> Place:
    """The place in a token that a page of what the request asks for ended with.

    Raises InvalidArgument with CURSOR_INVALID, also for a token of another list, filters or tenant.
    """
    mark, micros, number, seal = _decode(_PLACE, token, field)
    if mark != b"p" or seal != _seal(micros, number, request, tenant):
        raise _not_ours(_PLACE, token, field)
    try:
        return Place(_EPOCH + timedelta(microseconds=micros), number)
    except OverflowError:
        raise _not_ours(_PLACE, token, field) from None


def _owner(tenant: str) -> bytes:
    return blake2b(tenant.encode(), digest_size=_SEAL_BYTES).digest()


def _seal(micros: int, number: int, request: Message, tenant: str) -> bytes:
    """Tells tokens of other lists, filters, tenants and hands apart; it keeps no secret."""
    asked = type(request)()
    asked.CopyFrom(request)
    # Pages may differ in length.
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    for field, values in asked.ListFields():
        if field.is_repeated:
            _sort(values)
    key = b"" if tenant == DEFAULT_TENANT else _owner(tenant)
    digest = blake2b(struct.pack(">qQ", micros, number), digest_size=_SEAL_BYTES, key=key)
    digest.update(asked.DESCRIPTOR.full_name.encode())
    digest.update(asked.SerializeToString(deterministic=True))
    return digest.digest()


def _sort(values: Any) -> None:
    """Lists of what to look for are sets: whoever asks again may give them in another order."""
    given: Iterable[Any] = values
    kept = sorted(set(given))
    del values[:]
    values.extend(kept)


def _encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _decode(layout: struct.Struct, token: str, field: str) -> tuple[Any, ...]:
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        # PostgreSQL's bigint is signed.
        unpacked = layout.unpack(packed)
    except (binascii.Error, struct.error, ValueError):
        raise _not_ours(layout, token, field) from None
    # A number stands behind the mark, or behind the time.
    if unpacked[2 if layout is _PLACE else 1] >= 2**63 or _encode(packed) != token:
        raise _not_ours(layout, token, field)
    return unpacked


def _not_ours(layout: struct.Struct, token: str, field: str) -> InvalidArgument:
    return cursors.not_ours(token, field, to=_SAME if layout is _PLACE else "")
