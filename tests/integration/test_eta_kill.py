"""kill -9 of eta's process while fixes stream: nothing acknowledged is lost, nothing happens twice."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from eta_rig import Rig, order, rig, way
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest

from services.sim.gps_stream import GpsSender
from tools.ports import free_ports

COURIERS = 30


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


async def start(dsn: str, folder: Path, port: int) -> asyncio.subprocess.Process:
    environment = {
        "DATABASE_URL": dsn,
        "WAYMESH_DATA_DIR": str(folder),
        "WAYMESH_ETA_PORT": str(port),
        "WAYMESH_ETA_ADMIN_PORT": "0",
        "WAYMESH_FEEDBACK_TARGET": "127.0.0.1:1",
        "ENABLE_OUTCOME_LOGGING": "false",
        "LOG_LEVEL": "ERROR",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.eta", env={**os.environ, **environment}
    )


@pytest.mark.faults
async def test_kill_9_while_fixes_stream(mesh: Rig, tmp_path: Path) -> None:
    await mesh.place(*(order(number) for number in range(COURIERS)))
    ways = [way(number, fixes=200) for number in range(COURIERS)]
    events = [event for step in zip(*ways, strict=True) for event in step]
    [port] = free_ports(1)
    process = await start(mesh.dsn, tmp_path, port)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = EtaServiceStub(channel)
            await stub.GetGpsStats(GetGpsStatsRequest(), timeout=60, wait_for_ready=True)
            sender = GpsSender(stub)
            for number, begin in enumerate(range(0, len(events), 100)):
                if number in (15, 40):
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
                    process = await start(mesh.dsn, tmp_path, port)
                await sender.send(events[begin : begin + 100])
            await sender.finish()

            async def processed() -> bool:
                stats = await stub.GetGpsStats(GetGpsStatsRequest(), timeout=10, wait_for_ready=True)
                return bool(stats.fixes >= len(events))

            await mesh.until(processed, "every fix is counted")
            # What was sent again after a kill may still be on its way; none of it counts twice.
            newest = await mesh.row(
                "SELECT sum(last) AS n FROM bus.heads JOIN bus.partitions USING (part) "
                "WHERE topic = 'gps-events'"
            )

            async def drained() -> bool:
                stats = await stub.GetGpsStats(GetGpsStatsRequest(), timeout=10, wait_for_ready=True)
                return bool(stats.fixes + stats.duplicates == newest["n"])

            await mesh.until(drained, "every record is counted")
            stats = await stub.GetGpsStats(GetGpsStatsRequest(), timeout=10)
            await sender.close()
        assert stats.fixes == len(events)
        assert stats.duplicates <= sender.resent
        assert stats.conflicts == 0
        published = await mesh.published()
        assert len(published) == stats.predictions
        assert {one.order_id for one in published} == {f"order_{number}" for number in range(COURIERS)}
        delivered = [one for one in published if one.delivery_eta_minutes == 0]
        assert len(delivered) == COURIERS
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
