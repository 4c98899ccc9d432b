"""A plain gRPC port that serves grpc.health.v1 alone, for probes that speak no TLS, such as a kubelet's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

# What a probe asks fits many times.
_MOST_BYTES: Final = 4096
# How often somebody who watches is looked for, in seconds.
_LOOK_S: Final = 1.0

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN: Final = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthPort:
    """Serves from `start` to `stop`; `port` is the bound one."""

    def __init__(self, host: str, port: int, servicer: Any) -> None:
        self._host = host
        self._servicer = servicer
        self._server: grpc.aio.Server | None = None
        self.port = port

    async def start(self) -> None:
        """Raises OSError if the port is taken: of two services on one, a probe would ask either."""
        server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MOST_BYTES)]
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        try:
            self.port = server.add_insecure_port(address(self._host, self.port))
        except RuntimeError as error:
            raise OSError(f"{self._host}:{self.port} cannot be bound") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Ends at once what is still under way."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)


class AskedHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health of a process that serves no gRPC besides; `serving` is asked each time."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - as gRPC calls it
        if request.service:
            await context.abort(grpc.StatusCode.NOT_FOUND, "only the process as a whole is known")
        return self._status()

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        told = None
        while True:
            now = health_pb2.HealthCheckResponse(status=_UNKNOWN) if request.service else self._status()
            if now != told:
                told = now
                yield now
            await asyncio.sleep(_LOOK_S)

    def _status(self) -> Any:
        return health_pb2.HealthCheckResponse(status=_SERVING if self._serving() else _NOT_SERVING)


def address(host: str, port: int) -> str:
    """As gRPC listens: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
