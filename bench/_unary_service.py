"""One of the servers of bench/grpc_traps.py: eta's contract, no work, and around it what its name says."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import grpc
import uvloop
from waymesh.eta.v1 import eta_service_pb2_grpc

from bench._gateway_service import Eta
from bench._gateway_service import main as chained
from services.mesh import transport

KINDS = ("bare", "interceptor", "chain")


class Nothing(grpc.aio.ServerInterceptor):
    """Wraps the handler, as one has to in order to see how it ends, and adds nothing."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        wrapped = self._wrapped.get(handler_call_details.method)
        if wrapped is None:
            handler = await continuation(handler_call_details)

            async def behaviour(request: Any, context: Any) -> Any:
                return await handler.unary_unary(request, context)

            wrapped = self._wrapped[handler_call_details.method] = grpc.unary_unary_rpc_method_handler(
                behaviour,
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        return wrapped


async def main(kind: str, port: int) -> None:
    if kind == "chain":
        await chained(port)
    server = grpc.aio.server(
        interceptors=[Nothing()] if kind == "interceptor" else [], options=transport.server_options(64)
    )
    eta_service_pb2_grpc.add_EtaServiceServicer_to_server(cast(Any, Eta)(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
