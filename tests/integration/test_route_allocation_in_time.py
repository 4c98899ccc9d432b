"""Allocation with little time, and why nobody comes into question: of the whole fleet, as last told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from waymesh.route.v1 import route_service_pb2 as api

from services.mesh.errors import Unavailable
from tests.integration.route_mesh import Mesh, courier, order, rows, running, where


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def put(mesh: Mesh, couriers: list[Any], orders: list[Any]) -> None:
    if couriers:
        await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=couriers))
    if orders:
        await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=orders))


async def allocate(mesh: Mesh, *order_ids: str, timeout: float = 60.0) -> api.AllocateDriversResponse:
    request = api.AllocateDriversRequest(order_ids=order_ids)
    response: api.AllocateDriversResponse = await mesh.stub.AllocateDrivers(request, timeout=timeout)
    return response


@asynccontextmanager
async def locked(mesh: Mesh, statement: str) -> AsyncIterator[None]:
    """Somebody else's transaction has run this and does not end."""
    other = await asyncpg.connect(mesh.database)
    try:
        await other.execute("SET search_path = route")
        await other.execute("BEGIN")
        await other.execute(statement)
        yield
        await other.execute("ROLLBACK")
    finally:
        await other.close()


def reasons(response: api.AllocateDriversResponse) -> dict[str, str]:
    return {waiting.order_id: waiting.reason for waiting in response.unallocated}


async def test_named_orders_whose_turn_does_not_come_are_told_as_they_stand(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order("given"), *(order(f"o{n}") for n in range(5))])
    assert len((await allocate(mesh, "given")).allocations) == 1
    async with locked(mesh, "SELECT FROM orders FOR UPDATE"):
        # As many as a tenant has under way at once, each as far as the locked rows.
        others = [asyncio.create_task(allocate(mesh, f"o{n}", timeout=120)) for n in range(4)]
        async with asyncio.timeout(60):
            while len(await rows(mesh, "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'")) < 4:
                await asyncio.sleep(0.05)
        response = await allocate(mesh, "given", "o4", "nobody", timeout=4)
    assert [one.order_id for one in response.allocations] == ["given"]
    assert reasons(response) == {"nobody": "not known", "o4": "left for the next tick: too little time"}
    assert response.degradation.source == "route.partial_allocation"
    for other in others:
        await other


async def test_rows_that_stay_locked_leave_the_order_for_the_next_tick(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order("o")])
    async with locked(mesh, "SELECT FROM couriers FOR UPDATE"):
        response = await allocate(mesh, "o", timeout=4)
    assert not response.allocations
    assert reasons(response) == {"o": "left for the next tick: too little time"}
    assert response.degradation.source == "route.partial_allocation"
    assert await rows(mesh, "SELECT FROM allocations") == []
    assert [one.order_id for one in (await allocate(mesh, "o")).allocations] == ["o"]


async def test_a_store_that_does_not_answer_in_time_is_a_typed_error_before_the_deadline(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order("o")])
    async with locked(mesh, "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"):
        with pytest.raises(Unavailable) as caught:
            await allocate(mesh, "o", timeout=4)
    assert caught.value.retry_after_s


async def test_why_nobody_comes_into_question_is_said_of_the_whole_fleet(mesh: Mesh) -> None:
    await put(
        mesh,
        [courier("d", capacity=2, skills=["cold"]), courier("elsewhere", where(300), capacity=9)],
        [
            order("far", where(-300), where(-301)),
            order("hot", required_skills=["hot"]),
            order("large", size=5, required_skills=["cold"]),
        ],
    )
    assert reasons(await allocate(mesh, "far", "hot", "large")) == {
        "far": "no courier within reach",
        "hot": "no courier has the skills hot",
        "large": "no courier has room for size 5",
    }


async def test_couriers_with_as_many_orders_as_allowed_get_no_more(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order(f"o{n}") for n in range(5)])
    assert len((await allocate(mesh, *(f"o{n}" for n in range(4)))).allocations) == 4
    assert reasons(await allocate(mesh, "o4")) == {"o4": "every courier has as many orders as allowed"}


async def test_a_courier_is_weighed_as_last_told(mesh: Mesh) -> None:
    await put(mesh, [courier("d")], [order("o", required_skills=["cold"])])
    assert reasons(await allocate(mesh, "o")) == {"o": "no courier has the skills cold"}
    await put(mesh, [courier("d", revision=2, skills=["cold"])], [])
    assert [one.order_id for one in (await allocate(mesh, "o")).allocations] == ["o"]
