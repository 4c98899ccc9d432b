"""Route and the real eta, talking over a wire and one bus."""

import time
from pathlib import Path

from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.route.v1 import route_service_pb2 as api

from services.eta.server import Eta
from services.eta.settings import EtaSettings
from services.mesh.client import ClientFactory
from services.mesh.settings import load
from services.mesh.telemetry import Telemetry
from services.route.eta_client import EtaClient
from services.route.limits import Vehicle
from services.route.travel import Place
from tests.integration.route_mesh import courier, order, running, stamp, where


async def test_eta_answers_what_route_asks(database: str, tmp_path: Path) -> None:
    settings = load(
        EtaSettings,
        data_dir=tmp_path,
        port=0,
        admin=0,
        drain_s=0.0,
        feedback_target="127.0.0.1:1",
        enable_outcome_logging=False,
    )
    eta = Eta(settings, database)
    await eta.start()
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    target = f"127.0.0.1:{eta.server.port}"
    try:
        client = EtaClient(clients.stub(EtaServiceStub, target), 5.0)
        travel, degradation = await client.travel(
            [Place(0.0, 0.0), Place(0.0, 0.01), Place(0.0, 0.02)], Vehicle.CAR, time.time()
        )
        assert degradation is None
        assert 60 < travel.seconds[0][1] < travel.seconds[0][2]
        assert 1112 <= travel.metres[0][1] < 2500
        async with running(database, tmp_path, eta_target=target, eta_timeout_s=5.0) as mesh:
            await mesh.stub.UpsertCouriers(
                api.UpsertCouriersRequest(couriers=[courier("near", where(-1)), courier("far", where(-6))])
            )
            ready = stamp(time.time() + 300)
            await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=[order("o", ready_at=ready)]))
            response = await mesh.stub.AllocateDrivers(api.AllocateDriversRequest())
            assert not response.HasField("degradation")
            (allocation,) = response.allocations
            assert allocation.assigned_driver_id == "near"
            assert allocation.estimated_pickup_time.seconds >= ready.seconds - 1
            planned = await mesh.stub.OptimizeRoute(api.OptimizeRouteRequest(driver_id="near"))
            assert not planned.HasField("degradation")
            assert len(planned.plan.stops) == 2
    finally:
        await clients.close()
        await eta.stop()
