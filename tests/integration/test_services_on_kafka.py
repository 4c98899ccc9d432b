"""Services name their groups and topics as configured, in the cluster and on the embedded bus."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.eta.v1.gps_stream_pb2 import StreamGpsRequest

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.mesh.client import ClientFactory
from services.mesh.settings import load
from services.mesh.store import connect
from services.mesh.telemetry import Telemetry
from services.route.server import Route
from services.route.settings import RouteSettings
from tests.integration.eta_rig import GUARD_S, way
from tests.mock_cluster import MockCluster


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of any service; nobody listens where its peers should be."""
    return {
        "data_dir": tmp_path,
        "port": 0,
        "admin": 0,
        "drain_s": 0.0,
        "enable_outcome_logging": False,
        "eta_target": "127.0.0.1:1",
        "feedback_target": "127.0.0.1:1",
    }


@contextlib.asynccontextmanager
async def serving(service: Any) -> AsyncIterator[Any]:
    """Until the end of the block."""
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


async def comes(look: Any, wanted: object, what: str) -> None:
    """Looks again and again; the guard only ends a broken test."""
    found: object = None
    try:
        async with asyncio.timeout(GUARD_S):
            while (found := await look()) != wanted:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"{what}: {found!r}, never {wanted!r}") from None


async def groups(dsn: str) -> set[str]:
    """Those on the embedded bus."""
    connection = await connect(dsn)
    try:
        return {row["name"] for row in await connection.fetch("SELECT name FROM bus.groups")}
    finally:
        await connection.close()


async def test_a_group_on_the_embedded_bus_is_the_configured_id_and_the_service(
    database: str, options: dict[str, Any]
) -> None:
    async with (
        serving(Eta(load(EtaSettings, **options), database)),
        serving(Route(load(RouteSettings, **options, kafka_group_id="city"), database)),
    ):
        await comes(lambda: groups(database), {"waymesh.eta", "city.route"}, "groups")


async def test_a_group_in_the_cluster_is_the_configured_id_and_the_service(
    database: str, options: dict[str, Any]
) -> None:
    cluster = MockCluster()
    settings = load(EtaSettings, **options, kafka_bootstrap_servers=cluster.bootstrap_servers)
    async with contextlib.AsyncExitStack() as stack:
        eta = await stack.enter_async_context(serving(Eta(settings, database)))
        clients = ClientFactory("test", telemetry=Telemetry("test"))
        stack.push_async_callback(clients.close)
        stub: Any = clients.stub(EtaServiceStub, f"127.0.0.1:{eta.server.port}")

        async def fixes() -> AsyncIterator[StreamGpsRequest]:
            yield StreamGpsRequest(events=way(1, fixes=7))

        async for response in stub.StreamGps(fixes()):
            assert not response.rejected

        async def committed() -> int:
            return await asyncio.to_thread(cluster.committed, "waymesh.eta", "gps-events")

        await comes(committed, 7, "fixes that the group waymesh.eta has handled")
