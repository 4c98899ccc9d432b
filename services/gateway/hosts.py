"""Whether a name is this machine's own loopback, as a `Host` header or a setting gives it."""

import ipaddress
import re
from functools import lru_cache
from typing import Final

_AUTHORITY: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+))(?::[0-9]{0,5})?")


def is_loopback(name: str) -> bool:
    """Of a bare name or address: `localhost`, all of 127.0.0.0/8, `::1`."""
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=256)
def asks_for_loopback(host: bytes) -> bool:
    """Of a Host header, with any port."""
    match = _AUTHORITY.fullmatch(host.decode("latin-1"))
    return match is not None and is_loopback(match[1] or match[2])
