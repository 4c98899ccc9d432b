"""The service behind all gateways of bench/gateway.py: eta's contract, the whole server chain, no work."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import uvloop
from waymesh.eta.v1 import eta_service_pb2_grpc, gps_stream_pb2

from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry


class Eta(eta_service_pb2_grpc.EtaServiceServicer):
    """Takes in every fix."""

    async def ReportGps(  # noqa: N802 - the contract's name
        self, request: gps_stream_pb2.ReportGpsRequest, context: Any
    ) -> gps_stream_pb2.ReportGpsResponse:
        return gps_stream_pb2.ReportGpsResponse(event_id="550e8400-e29b-41d4-a716-446655440000")


async def main(port: int) -> None:
    server = GrpcServer(
        "eta", host="127.0.0.1", port=port, admin_port=None, telemetry=Telemetry.create("eta")
    )
    server.add(cast(Any, eta_service_pb2_grpc.add_EtaServiceServicer_to_server), Eta())  # type: ignore[abstract] # not all RPCs
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
