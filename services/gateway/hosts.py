"""Whether a `Host` header names this machine's own loopback."""

import re
from functools import lru_cache
from typing import Final

from services.mesh.hosts import is_loopback

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]{0,5})?")


@lru_cache(maxsize=256)
def asks_for_loopback(host: bytes) -> bool:
    """Of a Host header, with any port."""
    match = _AUTHORITY.fullmatch(host.decode("latin-1"))
    return match is not None and is_loopback(match[1] or match[2])
