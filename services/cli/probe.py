"""What a process's health page says: one plain HTTP GET, without an HTTP library in `up`."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Final

_TIMEOUT_S: Final = 2.0
_CHECKS_SHOWN: Final = 3
_BODY_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Health:
    """`ready` is what counts; `detail` says in a few words what is missing."""

    ready: bool
    detail: str = ""
    reached: bool = True
    checks: dict[str, str] = field(default_factory=dict)


_UNREACHED: Final = Health(ready=False, detail="does not answer", reached=False)


async def health(host: str, port: int, *, answered_by: int | None = None) -> Health:
    """Asks /health/ready. With `answered_by`, only an answer of that process counts.

    Two processes share a port while one takes over from the other, and the kernel picks who gets a
    connection.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(f"GET /health/ready HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_content_length(head))
                # The connection stays open until here: closed by the other side, it would belong to nobody.
                if answered_by is not None and not _is_peer(
                    answered_by, writer.get_extra_info("sockname")[1]
                ):
                    return _UNREACHED
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return _UNREACHED
    return _read(head, body)


def _is_peer(pid: int, port: int) -> bool:
    """Whether the process holds the other end of the connection from our `port`."""
    import psutil  # needed for a restart only

    try:
        return any(
            connection.raddr and connection.raddr.port == port
            for connection in psutil.Process(pid).net_connections("tcp")
        )
    except psutil.Error:
        return False


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            return min(int(value), _BODY_BYTES)
    return 0


def _read(head: bytes, body: bytes) -> Health:
    parts = head.split(b" ", 2)
    ready = len(parts) > 1 and parts[1] == b"200"
    try:
        said = json.loads(body)
    except ValueError:
        return Health(ready=ready, detail="" if ready else "is not ready")
    checks = said.get("checks") if isinstance(said, dict) else None
    found = {str(name): str(word) for name, word in checks.items()} if isinstance(checks, dict) else {}
    wrong = [f"{name}: {word}" for name, word in found.items() if word != "ok"]
    detail = "" if ready else ", ".join(wrong[:_CHECKS_SHOWN]) or str(said.get("status", "is not ready"))
    return Health(ready=ready, detail=detail, checks=found)
