"""Page tokens and cursors: opaque to clients, checked when they come back.

A number is a place in what is stored, and good for whoever reads on from there, with any filters. A place in
pages that are ordered by time is sealed with the request it answers: taken for a page of another list, or
with other filters, it would leave out what it never showed.
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

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = struct.Struct(">cQ")
_PLACE: Final = struct.Struct(">cqQ8s")
_SEAL_BYTES: Final = 8
_SAME: Final = "this request with the same filters"


def number_token(number: int) -> str:
    """A token for a dense number."""
    return _encode(_NUMBER.pack(b"n", number))


def parse_number(token: str, field: str) -> int:
    """The number in a token. Raises InvalidArgument with CURSOR_INVALID."""
    mark, number = _decode(_NUMBER, token, field)
    if mark != b"n":
        raise _not_ours(_NUMBER, token, field)
    return int(number)


def place_token(place: Place, request: Message) -> str:
    """A token for the end of a page of what the request asks for, ordered by time."""
    micros = (place.at - _EPOCH) // timedelta(microseconds=1)
    return _encode(_PLACE.pack(b"p", micros, place.number, _seal(micros, place.number, request)))


def parse_place(token: str, field: str, request: Message) -> Place:
    """The place in a token that a page of what the request asks for ended with.

    Raises InvalidArgument with CURSOR_INVALID, also for a token of another list or of other filters.
    """
    mark, micros, number, seal = _decode(_PLACE, token, field)
    if mark != b"p" or seal != _seal(micros, number, request):
        raise _not_ours(_PLACE, token, field)
    try:
        return Place(_EPOCH + timedelta(microseconds=micros), number)
    except OverflowError:
        raise _not_ours(_PLACE, token, field) from None


def _seal(micros: int, number: int, request: Message) -> bytes:
    """Tells tokens of other lists, of other filters and of other hands apart; it keeps no secret."""
    asked = type(request)()
    asked.CopyFrom(request)
    # Pages may differ in length.
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    for field, values in asked.ListFields():
        if field.is_repeated:
            _sort(values)
    digest = blake2b(struct.pack(">qQ", micros, number), digest_size=_SEAL_BYTES)
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
    if unpacked[1 if layout is _NUMBER else 2] >= 2**63 or _encode(packed) != token:
        raise _not_ours(layout, token, field)
    return unpacked


def _not_ours(layout: struct.Struct, token: str, field: str) -> InvalidArgument:
    return cursors.not_ours(token, field, to=_SAME if layout is _PLACE else "")
