"""Ports of this machine that nobody listens on, or is about to."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

_HOST: Final = "127.0.0.1"
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
# Who asked for which port: lines of port and process id, a file for each user of the machine.
_GIVEN: Final = Path(tempfile.gettempdir()) / f"waymesh-ports-{os.getuid()}"


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, outside of those the kernel gives to outgoing connections.

    They are the caller's until its process ends: no other call here, of any process of this user, gives them
    again. So what listens seconds later finds its port free, and finds it free again when it is started anew.
    OSError if there are none.
    """
    first = 32_768
    if _RANGE.exists():
        first = int(_RANGE.read_text().split()[0])
    candidates = (
        list(range(_LOWEST, first)) if first - _LOWEST > 100 * count else list(range(_LOWEST, 32_768))
    )
    random.SystemRandom().shuffle(candidates)
    with _GIVEN.open("a+") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        given = {port: pid for port, pid in (map(int, line.split()) for line in ledger) if _lives(pid)}
        found: list[int] = []
        for port in candidates:
            if port not in given and _is_free(port):
                found.append(port)
                if len(found) == count:
                    break
        else:
            raise OSError(f"no {count} free ports below {first}")
        given.update(dict.fromkeys(found, os.getpid()))
        ledger.truncate(0)
        ledger.writelines(f"{port} {pid}\n" for port, pid in given.items())
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((_HOST, port))
        except OSError:
            return False
    return True


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, its number perhaps given to another's process
        return False
    return True
