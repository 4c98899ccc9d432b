"""Ports of this machine that nobody listens on."""

import random
import socket
from pathlib import Path
from typing import Final

_HOST: Final = "127.0.0.1"
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside of those the kernel gives to outgoing connections.

    A process that is started again finds its port free therefore. OSError if there are none.
    """
    first = 32_768
    if _RANGE.exists():
        first = int(_RANGE.read_text().split()[0])
    candidates = (
        list(range(_LOWEST, first)) if first - _LOWEST > 100 * count else list(range(_LOWEST, 32_768))
    )
    random.SystemRandom().shuffle(candidates)
    found: list[int] = []
    for port in candidates:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((_HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports below {first}")
