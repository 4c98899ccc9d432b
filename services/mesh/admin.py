"""The admin port: /metrics and /health over plain HTTP/1.1, on the process's own event loop.

GET and HEAD of four paths, nothing else: a web server for it would cost every process more memory than the
rest of its mesh.
"""

import asyncio
import json
from http import HTTPStatus
from typing import Final, cast

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.mesh.health import Health
from services.mesh.telemetry import Telemetry

_JSON: Final = "application/json"
_HEAD_BYTES: Final = 16 * 1024


class AdminServer:
    """Serves until `stop`; `port` is the bound one."""

    def __init__(self, host: str, port: int, *, telemetry: Telemetry, health: Health) -> None:
        self._host = host
        self._telemetry = telemetry
        self._health = health
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Transport] = set()
        self.port = port

    async def start(self) -> None:
        """Raises OSError if the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, self._connections), self._host, self.port, reuse_port=True
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the port and what is connected to it."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._connections):
            connection.abort()
        await server.wait_closed()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for a path."""
        match path.partition("?")[0]:
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._telemetry.registry)
            case "/health/live":
                return HTTPStatus.OK, _JSON, b'{"status":"ok"}'
            case "/health" | "/health/ready":
                status = HTTPStatus.OK if self._health.serving else HTTPStatus.SERVICE_UNAVAILABLE
                return status, _JSON, json.dumps(self._health.report()).encode()
            case _:
                return HTTPStatus.NOT_FOUND, _JSON, b'{"error":"not found"}'


class _Connection(asyncio.Protocol):
    """Answers the requests of one connection, one after the other."""

    def __init__(self, server: AdminServer, connections: set[asyncio.Transport]) -> None:
        self._server = server
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not by isinstance: uvloop's transports are no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._connections.discard(self._transport)
            self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._transport is not None and not self._transport.is_closing():
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if len(head) > _HEAD_BYTES:
                self._transport.abort()
            if not end:
                return
            self._received = rest
            self._answer(self._transport, head.decode("latin-1"))

    def _answer(self, transport: asyncio.Transport, head: str) -> None:
        request_line, _, headers = head.lower().partition("\r\n")
        verb, _, rest = request_line.partition(" ")
        path, _, version = rest.partition(" ")
        if verb in ("get", "head"):
            status, content_type, body = self._server.answer(path)
        else:
            status, content_type, body = HTTPStatus.METHOD_NOT_ALLOWED, _JSON, b'{"error":"only GET"}'
        # What follows a body that nobody reads cannot be told from the next request.
        has_body = "content-length:" in headers or "transfer-encoding:" in headers
        keep = version == "http/1.1" and not has_body and "connection: close" not in headers
        transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n".encode("latin-1")
            + (b"" if verb == "head" else body)
        )
        if not keep:
            transport.close()
