"""Limits that a request for allocation sets: they go before the default, for that call, in the worker too."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.gps.v1.vehicle_pb2 import VEHICLE_TYPE_BICYCLE
from waymesh.route.v1 import route_service_pb2 as api
from waymesh.route.v1.route_pb2 import RouteLimits

from services.mesh.client import ClientFactory
from services.mesh.errors import InvalidArgument
from services.mesh.telemetry import Telemetry
from services.route.allocator import Allocator
from services.route.eta_client import EtaClient
from services.route.workers import Workers
from tests.integration.route_mesh import Mesh, courier, order, rows, running, where


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def put(mesh: Mesh, couriers: list[Any], orders: list[Any]) -> None:
    await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=couriers))
    await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=orders))


async def allocate(mesh: Mesh, *, dry_run: bool = False, **limits: float) -> Any:
    asked = RouteLimits(**limits) if limits else None  # type: ignore[arg-type]
    return await mesh.stub.AllocateDrivers(
        api.AllocateDriversRequest(dry_run=dry_run, limits=asked), timeout=60
    )


async def test_fewer_orders_for_each_courier_and_the_default_again_in_the_next_call(mesh: Mesh) -> None:
    await put(mesh, [courier("d", capacity=6)], [order(f"o{n}") for n in range(3)])
    first = await allocate(mesh, max_orders_on_board=1)
    assert [one.reasoning[-1].split(", ")[-1] for one in first.allocations] == ["1 of 1 orders"]
    assert len(first.unallocated) == 2
    assert len((await allocate(mesh, max_orders_on_board=1)).allocations) == 0
    assert len((await allocate(mesh)).allocations) == 2


async def test_more_orders_than_by_default_are_planned_in_the_worker_process(mesh: Mesh) -> None:
    await put(mesh, [courier("d", capacity=6)], [order(f"o{n}", where(0), where(1)) for n in range(7)])
    wide: dict[str, float] = {"max_duration_minutes": 600, "max_food_wait_minutes": 600}
    assert len((await allocate(mesh, dry_run=True, **wide)).allocations) == 4
    workers, clients = Workers(), ClientFactory("test", telemetry=Telemetry("test"))
    eta = EtaClient(clients.stub(EtaServiceStub, mesh.settings.eta_target), 1.0)
    allocator = Allocator(mesh.store, mesh.bus, eta, workers, mesh.settings)
    limits = RouteLimits(max_orders_on_board=5, **wide)  # type: ignore[arg-type]
    assert len((await allocator.on_demand((), dry_run=True, limits=limits)).allocations) == 5
    assert workers.warm
    await workers.close()
    await clients.close()
    response = await allocate(mesh, max_orders_on_board=100, **wide)
    assert len(response.allocations) == 6
    assert response.unallocated[0].reason.startswith("more orders than couriers have room for")
    assert all(one.reasoning[-1].endswith("6 of 6 orders") for one in response.allocations)
    (plan,) = await rows(mesh, "SELECT orders FROM plans")
    assert plan["orders"] == 6


@pytest.mark.parametrize(
    ("limits", "given"),
    [
        ({}, 0),
        ({"max_duration_minutes": 600}, 0),
        ({"max_length_km": 40}, 1),
        ({"max_length_km": 40, "max_duration_minutes": 2}, 0),
    ],
)
async def test_each_limit_goes_before_the_default(mesh: Mesh, limits: dict[str, float], given: int) -> None:
    # Far more than the 15 km of a bicycle.
    await put(mesh, [courier("d", vehicle_type=VEHICLE_TYPE_BICYCLE)], [order("o", where(0), where(22))])
    assert len((await allocate(mesh, **limits)).allocations) == given


async def test_a_tighter_limit_leaves_the_order_waiting(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order("o")])
    for limit in ({"max_length_km": 0.5}, {"max_duration_minutes": 3.0}):
        (waiting,) = (await allocate(mesh, **limit)).unallocated
        assert waiting.order_id == "o"
    assert len((await allocate(mesh, dropoff_service_minutes=0, pickup_service_minutes=0)).allocations) == 1


async def test_a_limit_out_of_range_is_refused_by_its_name(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await allocate(mesh, max_orders_on_board=101)
    assert [one.field for one in refused.value.violations] == ["limits.max_orders_on_board"]
