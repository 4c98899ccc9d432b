"""The server of bench/tls.py: eta's contract with the whole chain, with certificates."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, cast

import uvloop
from waymesh.eta.v1 import eta_service_pb2_grpc

from bench._gateway_service import Eta
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from services.mesh.tls.files import Files
from services.mesh.tls.live import LiveTls


def certificates(folder: Path) -> LiveTls:
    """Of a folder with the three files."""
    return LiveTls(Files(folder / "tls.crt", folder / "tls.key", folder / "ca.crt"))


async def main(port: int, folder: Path) -> None:
    server = GrpcServer(
        "eta",
        host="127.0.0.1",
        port=port,
        admin_port=None,
        telemetry=Telemetry.create("eta"),
        tls=certificates(folder),
    )
    server.add(cast(Any, eta_service_pb2_grpc.add_EtaServiceServicer_to_server), Eta())  # type: ignore[abstract] # not all RPCs
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
