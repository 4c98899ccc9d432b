"""Page tokens and cursors: opaque to clients, checked when they come back."""

import base64
import binascii
import struct
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from services.feedback.store import Place
from services.mesh import cursors

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = struct.Struct(">cQ")
_PLACE: Final = struct.Struct(">cqQ")


def number_token(number: int) -> str:
    """A token for a dense number."""
    return _encode(_NUMBER.pack(b"n", number))


def parse_number(token: str, field: str) -> int:
    """The number in a token. Raises InvalidArgument with CURSOR_INVALID."""
    mark, number = _decode(_NUMBER, token, field)
    if mark != b"n":
        raise cursors.not_ours(token, field)
    return int(number)


def place_token(place: Place) -> str:
    """A token for the end of a page that is ordered by time."""
    return _encode(_PLACE.pack(b"p", (place.at - _EPOCH) // timedelta(microseconds=1), place.number))


def parse_place(token: str, field: str) -> Place:
    """The place in a token. Raises InvalidArgument with CURSOR_INVALID."""
    mark, micros, number = _decode(_PLACE, token, field)
    if mark != b"p":
        raise cursors.not_ours(token, field)
    try:
        return Place(_EPOCH + timedelta(microseconds=micros), number)
    except OverflowError:
        raise cursors.not_ours(token, field) from None


def _encode(packed: bytes) -> str:
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def _decode(layout: struct.Struct, token: str, field: str) -> tuple[Any, ...]:
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        # PostgreSQL's bigint is signed.
        unpacked = layout.unpack(packed)
    except (binascii.Error, struct.error, ValueError):
        raise cursors.not_ours(token, field) from None
    if unpacked[-1] >= 2**63 or _encode(packed) != token:
        raise cursors.not_ours(token, field)
    return unpacked
