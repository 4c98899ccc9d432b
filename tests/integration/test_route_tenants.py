"""Tenants of route whose orders and couriers have the same names: none knows of another's."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.gps.v1.gps_pb2 import TRIP_STAGE_TO_DESTINATION
from waymesh.order.v1 import order_pb2
from waymesh.order.v1.courier_pb2 import COURIER_STATUS_OFF_SHIFT
from waymesh.order.v1.events_pb2 import Cancellation, OrderCommand, OrderEvent
from waymesh.order.v1.order_pb2 import Merchant
from waymesh.route.v1 import route_service_pb2 as api
from waymesh.route.v1.allocation_pb2 import Allocation

from services.mesh import tenancy
from services.mesh.errors import MeshError, NotFound
from services.mesh.events import Message, Record, decode_value, tenants
from services.mesh.principal import Principal, acting
from tests.integration.route_mesh import Mesh, courier, eventually, fix, order, rows, running, where

TENANTS = ("default", "acme", "bolt")
# Of the default tenant, and yet what another's looks like from within.
SLASHED = "acme/o"


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def call(mesh: Mesh, tenant: str, method: str, request: Any) -> Any:
    with acting(Principal(tenant)):
        return await getattr(mesh.stub, method)(request)


async def upsert(mesh: Mesh, tenant: str, *orders: Any, couriers: Any = ()) -> Any:
    if couriers:
        await call(mesh, tenant, "UpsertCouriers", api.UpsertCouriersRequest(couriers=couriers))
    return (
        await call(mesh, tenant, "UpsertOrders", api.UpsertOrdersRequest(orders=orders)) if orders else None
    )


async def get(mesh: Mesh, tenant: str, order_id: str) -> api.GetOrderResponse:
    return await call(mesh, tenant, "GetOrder", api.GetOrderRequest(order_id=order_id))


async def refusal(mesh: Mesh, tenant: str, method: str, request: Any) -> tuple[Any, ...]:
    """All that a caller is told of why not."""
    with pytest.raises(MeshError) as raised:
        await call(mesh, tenant, method, request)
    error = raised.value
    return error.code, error.message, error.reason, dict(error.metadata), error.violations


def of(records: list[Record], tenant: str) -> list[Record]:
    return [record for record in records if tenants.tenant_of(record) == tenant]


async def test_the_same_names_are_different_things(mesh: Mesh) -> None:
    placed = {
        tenant: order("o", dropoff=where(2 + place), merchant=Merchant(merchant_id="m", name=tenant))
        for place, tenant in enumerate(TENANTS)
    }
    for tenant, one in placed.items():
        response = await upsert(mesh, tenant, one)
        assert (response.results[0].id, response.duplicate) == ("o", False)
    for tenant, one in placed.items():
        assert (await get(mesh, tenant, "o")).order == one
        assert (await upsert(mesh, tenant, one)).duplicate
    cancellation = Cancellation(order_id="o")
    await call(mesh, "acme", "CancelOrder", api.CancelOrderRequest(cancellation=cancellation))
    statuses = [(await get(mesh, tenant, "o")).order.status for tenant in TENANTS]
    placed_, cancelled = order_pb2.ORDER_STATUS_PLACED, order_pb2.ORDER_STATUS_CANCELLED
    assert statuses == [placed_, cancelled, placed_]


async def test_what_is_anothers_is_told_of_as_what_nobody_has(mesh: Mesh) -> None:
    await upsert(mesh, "acme", order("o"), couriers=[courier("c")])
    await upsert(mesh, "default", order("d"), couriers=[courier("e")])
    asked = [
        ("GetOrder", lambda name, _: api.GetOrderRequest(order_id=name)),
        ("CancelOrder", lambda name, _: api.CancelOrderRequest(cancellation=Cancellation(order_id=name))),
        ("AllocateDrivers", lambda name, _: api.AllocateDriversRequest(order_ids=[name], dry_run=True)),
        ("OptimizeRoute", lambda _, name: api.OptimizeRouteRequest(driver_id=name)),
    ]
    for method, request in asked:
        for asker, theirs in (("bolt", ("o", "c")), ("default", ("o", "c")), ("acme", ("d", "e"))):
            told = await refusal(mesh, asker, method, request(*theirs))
            assert told[0] is NotFound.code
            nobodys = await refusal(mesh, "nobody", method, request(*theirs))
            assert told == nobodys
            # Nor by the name that it has within.
            for owner in ("acme", "default"):
                within = tuple(f"{owner}/{name}" for name in theirs)
                assert await refusal(mesh, asker, method, request(*within)) == await refusal(
                    mesh, "nobody", method, request(*within)
                )


async def test_a_slash_in_a_name_leads_nowhere(mesh: Mesh) -> None:
    await upsert(mesh, "default", order(SLASHED))
    await upsert(mesh, "acme", order("o", dropoff=where(9)))
    assert (await get(mesh, "default", SLASHED)).order.dropoff == where(3)
    assert (await get(mesh, "acme", "o")).order.dropoff == where(9)
    assert (await refusal(mesh, "default", "GetOrder", api.GetOrderRequest(order_id="o")))[0] is NotFound.code
    assert (await refusal(mesh, "acme", "GetOrder", api.GetOrderRequest(order_id=SLASHED)))[
        0
    ] is NotFound.code


async def test_one_refused_order_names_itself_as_its_tenant_does(mesh: Mesh) -> None:
    await upsert(mesh, "acme", order("o"), order("p"))
    response = await upsert(mesh, "acme", order("o", priority=9), order("p", priority=9))
    for name, result in zip(("o", "p"), response.results, strict=True):
        assert result.id == name
        assert result.error.message == f"revision 1 of {name} is there with other content"
        assert b"acme" not in result.SerializeToString()


async def test_nobodys_courier_carries_what_is_anothers(mesh: Mesh) -> None:
    # bolt has an order and nobody who could, acme somebody who stands beside it and nothing to do.
    await upsert(mesh, "bolt", order("o"), couriers=[courier("c", status=COURIER_STATUS_OFF_SHIFT)])
    await upsert(mesh, "acme", order("far", where(1)), couriers=[courier("c", where(1))])
    await upsert(mesh, "default", couriers=[courier("c", where(0))])
    told = await call(mesh, "bolt", "AllocateDrivers", api.AllocateDriversRequest())
    assert not told.allocations
    assert [one.order_id for one in told.unallocated] == ["o"]
    told = await call(mesh, "acme", "AllocateDrivers", api.AllocateDriversRequest())
    assert [(one.order_id, one.assigned_driver_id) for one in told.allocations] == [("far", "c")]
    assert not told.allocations[0].alternative_drivers
    assert not told.unallocated
    assert not (await call(mesh, "default", "AllocateDrivers", api.AllocateDriversRequest())).allocations


async def test_all_tenants_are_allocated_in_a_tick_each_to_its_own(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, allocation_tick_s=0.2, allocation_gap_s=0.1) as mesh:
        for place, tenant in enumerate(TENANTS):
            # Everybody's nearest courier is somebody else's.
            await upsert(
                mesh, tenant, order("o", where(place)), order("p", where(place)),
                couriers=[courier("c", where(9 - place)), courier(f"of-{tenant}", where(9.5 - place))],
            )  # fmt: skip
        seen = await mesh.until("driver-allocations", lambda seen: len(seen) >= 6)
        for tenant in TENANTS:
            given = [decode_value(one, Allocation) for one in of(seen, tenant)]
            assert {one.order_id for one in given} == {"o", "p"}
            couriers = {"c", f"of-{tenant}"}
            for one in given:
                named = {one.assigned_driver_id, *(other.driver_id for other in one.alternative_drivers)}
                assert named <= couriers
                assert "/" not in " ".join(one.reasoning)
                assert (await get(mesh, tenant, one.order_id)).allocation == one
        # eta is asked for the mesh, by the ids that it knows them by.
        asked = {
            (query.order.order_id, query.driver_id) for batch in mesh.eta.batches for query in batch.queries
        }
        assert {tenancy.tenant_of(order_id) for order_id, _ in asked} == set(TENANTS)
        assert all(tenancy.tenant_of(one) == tenancy.tenant_of(other) for one, other in asked)
        for tenant in TENANTS:
            await call(mesh, tenant, "OptimizeRoute", api.OptimizeRouteRequest(driver_id="c"))
        assert mesh.eta.matrices
        assert set(mesh.eta.asked_for) == {"*"}


async def test_what_fails_for_one_tenant_holds_up_no_other(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, allocation_tick_s=0.2, allocation_gap_s=0.1) as mesh:
        await upsert(mesh, "bolt", order("o"))
        await mesh.store.pool.execute("UPDATE route.orders SET body = '\\xff'")
        # In the order in which they are looked at, one before and one after.
        for tenant in ("acme", "zeta"):
            await upsert(mesh, tenant, order("o"), couriers=[courier("c")])
        seen = await mesh.until("driver-allocations", lambda seen: len(seen) >= 2)
        assert {tenants.tenant_of(record) for record in seen} == {"acme", "zeta"}


async def test_events_hold_plain_ids_and_name_their_tenant(mesh: Mesh) -> None:
    for tenant in TENANTS:
        await upsert(mesh, tenant, order("o"), couriers=[courier("c")])
        await call(mesh, tenant, "AllocateDrivers", api.AllocateDriversRequest())
    seen = await mesh.until("orders", lambda seen: len(seen) >= 9)
    for tenant in TENANTS:
        own = of(seen, tenant)
        assert {record.key for record in own} == {tenancy.qualify(tenant, name) for name in ("o", "c")}
        told = [decode_value(record, OrderEvent) for record in own]
        assert {one.order.order_id or one.courier.driver_id for one in told} == {"o", "c"}
    assert len({record.event_id for record in seen}) == len(seen)
    given = await mesh.until("driver-allocations", lambda seen: len(seen) >= 3)
    assert {record.key for record in given} == {"o", "acme/o", "bolt/o"}
    assert {decode_value(record, Allocation).assigned_driver_id for record in given} == {"c"}


async def test_a_fix_moves_its_own_tenants_order(mesh: Mesh) -> None:
    for tenant in ("acme", "bolt"):
        held = order("o", status=order_pb2.ORDER_STATUS_ASSIGNED, driver_id="c")
        await upsert(mesh, tenant, held, couriers=[courier("c")])
    event = fix("c", "o", TRIP_STAGE_TO_DESTINATION, time.time())
    message = Message("gps-events", "acme/c", event.SerializeToString(), "f1", "", headers={
        "x-waymesh-tenant": "acme"})  # fmt: skip
    async with mesh.store.transaction() as conn:
        await mesh.bus.publish(conn, [message])

    async def moved() -> bool:
        return (await get(mesh, "acme", "o")).order.status == order_pb2.ORDER_STATUS_PICKED_UP

    assert await eventually(moved)
    assert (await get(mesh, "bolt", "o")).order.status == order_pb2.ORDER_STATUS_ASSIGNED
    assert [row["driver_id"] for row in await rows(mesh, "SELECT driver_id FROM route.positions")] == [
        "acme/c"
    ]


async def test_a_command_is_its_own_tenants_and_a_refused_one_stays_so(mesh: Mesh) -> None:
    await upsert(mesh, "bolt", order("o"))
    command = OrderCommand(upsert=order("o", dropoff=where(7)))
    unknown = OrderCommand(cancel=Cancellation(order_id="nobodys"))
    async with mesh.store.transaction() as conn:
        await mesh.bus.publish(
            conn,
            [
                Message("order-commands", "acme/o", one.SerializeToString(), str(number), "", headers={
                    "x-waymesh-tenant": "acme"})
                for number, one in enumerate((command, unknown))
            ],
        )  # fmt: skip
    (letter,) = await mesh.until("dead-letters", lambda seen: len(seen) == 1)
    assert letter.headers["x-waymesh-tenant"] == "acme"
    assert letter.headers["dead-reason"] == "ORDER_UNKNOWN: order nobodys is not known"
    assert (await get(mesh, "acme", "o")).order.dropoff == where(7)
    assert (await get(mesh, "bolt", "o")).order.dropoff == where(3)


async def test_what_a_tenant_has_kept_is_kept_as_it_gave_it(mesh: Mesh) -> None:
    one = order("o", merchant=Merchant(merchant_id="m"))
    await upsert(mesh, "acme", one)
    (row,) = await rows(mesh, "SELECT order_id, tenant, body FROM route.orders")
    assert (row["order_id"], row["tenant"]) == ("acme/o", "acme")
    assert order_pb2.Order.FromString(row["body"]) == one
