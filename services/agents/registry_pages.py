"""Page tokens of the registry: opaque to clients, good only for the list they came with."""

import base64
import binascii
from hashlib import blake2b
from typing import Any, Final

from google.protobuf.message import Message

from services.agents.registry_store import Place
from services.mesh import cursors

_SEAL_BYTES: Final = 8
_SEPARATOR: Final = "\n"
_SAME: Final = "this request with the same filters"


def place_token(place: Place, request: Message, scope: str) -> str:
    """A token for the end of a page of agents. `scope`: what else the list depends on, such as the tenant."""
    return _encode((place.name, "1" if place.built_in else "0", place.agent_id), request, scope)


def parse_place(token: str, request: Any, scope: str) -> Place:
    """The place in a token. Raises InvalidArgument (CURSOR_INVALID), also for a token of another list."""
    parts = _decode(token, request, scope)
    if len(parts) != 3 or parts[1] not in ("0", "1"):
        raise cursors.not_ours(token, "page_token", to=_SAME)
    return Place(parts[0], parts[1] == "1", parts[2])


def version_token(version: int, request: Message, scope: str) -> str:
    """A token for a page of versions that ended with this one."""
    return _encode((str(version),), request, scope)


def parse_version(token: str, request: Any, scope: str) -> int:
    """The version in a token. Raises InvalidArgument (CURSOR_INVALID), also for a token of another list."""
    parts = _decode(token, request, scope)
    if len(parts) != 1 or not parts[0].isdecimal():
        raise cursors.not_ours(token, "page_token", to=_SAME)
    return int(parts[0])


def _encode(parts: tuple[str, ...], request: Message, scope: str) -> str:
    text = _SEPARATOR.join(parts).encode()
    return base64.urlsafe_b64encode(_seal(text, request, scope) + text).decode().rstrip("=")


def _decode(token: str, request: Message, scope: str) -> list[str]:
    try:
        packed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        text = packed[_SEAL_BYTES:]
        # The seal first: what is sealed was written here.
        if packed[:_SEAL_BYTES] == _seal(text, request, scope):
            return text.decode().split(_SEPARATOR)
    except (binascii.Error, ValueError):
        pass
    raise cursors.not_ours(token, "page_token", to=_SAME)


def _seal(text: bytes, request: Message, scope: str) -> bytes:
    """Tells tokens of other lists, of other filters and of other hands apart; it keeps no secret."""
    asked: Any = type(request)()
    asked.CopyFrom(request)
    # Pages may differ in length.
    asked.ClearField("page_token")
    asked.ClearField("page_size")
    digest = blake2b(digest_size=_SEAL_BYTES)
    for part in (
        asked.DESCRIPTOR.full_name.encode(),
        asked.SerializeToString(deterministic=True),
        scope.encode(),
    ):
        digest.update(len(part).to_bytes(4))
        digest.update(part)
    digest.update(text)
    return digest.digest()
