"""A plain gRPC port that serves grpc.health.v1 alone, for probes that speak no TLS, such as a kubelet's."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]

# What a probe asks fits many times.
_MOST_BYTES = 4096


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


def address(host: str, port: int) -> str:
    """As gRPC listens: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
