"""Taking in orders and couriers: each once, refused with the right reason, durable and published together."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.rpc.code_pb2 import ABORTED, ALREADY_EXISTS, INVALID_ARGUMENT
from waymesh.order.v1 import order_pb2
from waymesh.order.v1.courier_pb2 import COURIER_STATUS_BUSY
from waymesh.order.v1.events_pb2 import Cancellation, OrderCommand, OrderEvent
from waymesh.route.v1 import route_service_pb2 as api

from services.mesh import errors
from services.mesh.events import decode_value
from tests.integration.route_mesh import Mesh, courier, eventually, fix, order, rows, running, where


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def upsert(mesh: Mesh, *orders: Any) -> api.UpsertOrdersResponse:
    return await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=orders))


async def cancel(mesh: Mesh, order_id: str, revision: int = 0) -> api.CancelOrderResponse:
    cancellation = Cancellation(order_id=order_id, revision=revision, reason="changed my mind")
    return await mesh.stub.CancelOrder(api.CancelOrderRequest(cancellation=cancellation))


async def get(mesh: Mesh, order_id: str) -> api.GetOrderResponse:
    return await mesh.stub.GetOrder(api.GetOrderRequest(order_id=order_id))


async def test_a_new_order_is_kept_and_published(mesh: Mesh) -> None:
    placed = order("o")
    response = await upsert(mesh, placed)
    assert (response.results[0].id, response.results[0].revision, response.duplicate) == ("o", 1, False)
    assert (await get(mesh, "o")).order == placed
    (record,) = await mesh.until("orders", lambda seen: len(seen) == 1)
    assert record.key == "o"
    assert record.type == "waymesh.order.v1.OrderEvent"
    assert decode_value(record, OrderEvent).order == placed


async def test_the_same_again_changes_nothing(mesh: Mesh) -> None:
    placed = order("o")
    await upsert(mesh, placed)
    again = await upsert(mesh, placed)
    assert again.duplicate
    assert again.results[0].duplicate
    await cancel(mesh, "o")
    late = await upsert(mesh, placed)
    assert late.duplicate
    assert late.results[0].revision == 2
    assert len(await mesh.until("orders", lambda seen: len(seen) == 2)) == 2


async def test_the_same_revision_with_other_content_is_a_conflict(mesh: Mesh) -> None:
    await upsert(mesh, order("o"))
    with pytest.raises(errors.AlreadyExists) as caught:
        await upsert(mesh, order("o", priority=7))
    assert caught.value.reason_name == "CONFLICTING_CONTENT"
    assert caught.value.metadata == {"id": "o@1"}
    assert (await get(mesh, "o")).order.priority == 0


async def test_an_older_revision_is_stale(mesh: Mesh) -> None:
    await upsert(mesh, order("o", revision=5))
    with pytest.raises(errors.Aborted) as caught:
        await upsert(mesh, order("o", revision=4))
    assert caught.value.reason_name == "STALE_REVISION"
    assert caught.value.metadata == {"order_id": "o", "revision": "5"}


async def test_a_step_that_cannot_be_is_a_status_conflict(mesh: Mesh) -> None:
    await upsert(mesh, order("o", status=order_pb2.ORDER_STATUS_PICKED_UP, driver_id="d"))
    for call in (cancel(mesh, "o"), upsert(mesh, order("o", revision=2))):
        with pytest.raises(errors.FailedPrecondition) as caught:
            await call
        assert caught.value.reason_name == "STATUS_CONFLICT"
        assert caught.value.metadata == {"order_id": "o", "status": "picked_up"}


async def test_cancelling_twice_is_cancelling_once(mesh: Mesh) -> None:
    await upsert(mesh, order("o"))
    first, second = await cancel(mesh, "o"), await cancel(mesh, "o")
    assert first.order.status == order_pb2.ORDER_STATUS_CANCELLED
    assert first.order.cancel_reason == "changed my mind"
    assert (first.duplicate, second.duplicate) == (False, True)
    assert second.order == first.order


async def test_a_cancellation_of_an_old_state_is_stale(mesh: Mesh) -> None:
    await upsert(mesh, order("o", revision=3))
    with pytest.raises(errors.Aborted) as caught:
        await cancel(mesh, "o", revision=3)
    assert caught.value.reason_name == "STALE_REVISION"


@pytest.mark.parametrize("order_id", ["nobody", "né", "x" * 128])
async def test_an_unknown_order_is_not_found(mesh: Mesh, order_id: str) -> None:
    for call in (
        get(mesh, order_id),
        cancel(mesh, order_id),
        mesh.stub.AllocateDrivers(api.AllocateDriversRequest(order_ids=[order_id])),
    ):
        with pytest.raises(errors.NotFound) as caught:
            await call
        assert caught.value.reason_name == "ORDER_UNKNOWN"
        assert caught.value.metadata == {"order_id": order_id}
    assert await rows(mesh, "SELECT * FROM orders") == []


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (order("o", driver_id="d"), "orders[0].driver_id"),
        (order("o", status=order_pb2.ORDER_STATUS_ASSIGNED), "orders[0].driver_id"),
        (order("o\0x"), "orders[0].order_id"),
        (order(""), "orders[0].order_id"),
        (order("o", size=-1), "orders[0].size"),
        (order("o", pickup=where(99999)), "orders[0].pickup.lon"),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_field(mesh: Mesh, wrong: Any, field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await upsert(mesh, wrong)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert await rows(mesh, "SELECT * FROM orders") == []


async def test_a_batch_tells_item_by_item(mesh: Mesh) -> None:
    await upsert(mesh, order("known"), order("later", revision=4))
    response = await upsert(
        mesh,
        order("new"),
        order("known", priority=9),
        order("later", revision=2),
        order("odd", driver_id="d"),
        order("new", revision=2, priority=3),
    )
    assert [result.error.code for result in response.results] == [
        0,
        ALREADY_EXISTS,
        ABORTED,
        INVALID_ARGUMENT,
        0,
    ]
    assert not response.duplicate
    assert (await get(mesh, "new")).order.priority == 3
    assert {row["order_id"] for row in await rows(mesh, "SELECT order_id FROM orders")} == {
        "new",
        "known",
        "later",
    }


async def test_couriers_are_taken_in_once_by_revision(mesh: Mesh) -> None:
    async def put(*couriers: Any) -> api.UpsertCouriersResponse:
        return await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=couriers))

    assert not (await put(courier("d"))).duplicate
    assert (await put(courier("d"))).duplicate
    with pytest.raises(errors.AlreadyExists) as conflict:
        await put(courier("d", capacity=9))
    assert conflict.value.reason_name == "CONFLICTING_CONTENT"
    await put(courier("d", revision=3, status=COURIER_STATUS_BUSY))
    assert (await put(courier("d"))).results[0].revision == 3
    with pytest.raises(errors.Aborted) as stale:
        await put(courier("d", revision=2))
    assert stale.value.metadata == {"driver_id": "d", "revision": "3"}
    seen = await mesh.until("orders", lambda seen: len(seen) == 2)
    assert [decode_value(record, OrderEvent).courier.revision for record in seen] == [1, 3]


async def test_many_at_once_are_all_there_when_answered(mesh: Mesh) -> None:
    names = [f"o{i}" for i in range(200)]
    await asyncio.gather(*(upsert(mesh, order(name)) for name in names))
    stored = {row["order_id"] for row in await rows(mesh, "SELECT order_id FROM orders")}
    assert stored == set(names)
    assert len(await mesh.until("orders", lambda seen: len(seen) >= 200)) == 200


async def test_writers_of_one_order_at_once_make_one_order(mesh: Mesh) -> None:
    versions = [order("o", priority=i % 5) for i in range(20)]
    results = await asyncio.gather(*(upsert(mesh, v) for v in versions), return_exceptions=True)
    accepted = [r for r in results if isinstance(r, api.UpsertOrdersResponse) and not r.duplicate]
    assert len(accepted) == 1
    refused = [r for r in results if isinstance(r, BaseException)]
    assert all(isinstance(r, errors.AlreadyExists) for r in refused)
    assert len(await mesh.until("orders", lambda seen: len(seen) >= 1)) == 1


async def test_an_order_catches_up_with_fixes_that_came_before_it(mesh: Mesh) -> None:
    await mesh.publish("gps-events", "d", fix("d", "o", 6, 1_700_000_000.0), "fix-1")
    await eventually(lambda: rows(mesh, "SELECT * FROM positions"))
    response = await upsert(mesh, order("o", status=order_pb2.ORDER_STATUS_ASSIGNED, driver_id="d"))
    assert response.results[0].revision == 2
    now = (await get(mesh, "o")).order
    assert now.status == order_pb2.ORDER_STATUS_DELIVERED
    assert now.delivered_at.seconds == 1_700_000_000


async def test_a_clock_that_runs_ahead_moves_neither_the_order_nor_the_courier(mesh: Mesh) -> None:
    await upsert(mesh, order("o", status=order_pb2.ORDER_STATUS_ASSIGNED, driver_id="d"))
    await mesh.publish("gps-events", "d", fix("d", "o", 6, time.time() + 3600), "fix-1")
    await mesh.publish("gps-events", "d", fix("d", "o", 6, 253_402_300_798.0), "fix-2")
    await mesh.publish("gps-events", "d", fix("d", "o", 4, 1_700_000_000.0), "fix-3")
    [position] = await eventually(lambda: rows(mesh, "SELECT * FROM positions"))
    assert position["fixed_at"].timestamp() == 1_700_000_000.0
    now = (await get(mesh, "o")).order
    assert now.status == order_pb2.ORDER_STATUS_PICKED_UP
    assert now.picked_up_at.seconds == 1_700_000_000


@pytest.mark.parametrize("content_type", ["application/protobuf", "application/json"])
async def test_commands_are_taken_in_like_calls(mesh: Mesh, content_type: str) -> None:
    await mesh.publish("order-commands", "o", OrderCommand(upsert=order("o")), "c1", content_type)
    await mesh.publish(
        "order-commands", "o", OrderCommand(cancel=Cancellation(order_id="o")), "c2", content_type
    )
    await mesh.until("orders", lambda seen: len(seen) == 2)
    assert (await get(mesh, "o")).order.status == order_pb2.ORDER_STATUS_CANCELLED


async def test_bad_commands_go_to_the_dead_letters_and_the_rest_goes_on(mesh: Mesh) -> None:
    await mesh.publish_bytes("order-commands", "o", b"\xff\xfe nonsense", "bad-bytes")
    await mesh.publish_bytes(
        "order-commands", "o", b'{"upsert": {"order_id": 5}}', "bad-json", "application/json"
    )
    await mesh.publish("order-commands", "o", OrderCommand(upsert=order("o", size=-3)), "bad-rule")
    await mesh.publish("order-commands", "o", OrderCommand(cancel=Cancellation(order_id="o")), "too-early")
    await mesh.publish("order-commands", "o", OrderCommand(upsert=order("o")), "good")
    await mesh.publish("order-commands", "o", OrderCommand(upsert=order("o", priority=2)), "conflict")
    await mesh.until("orders", lambda seen: len(seen) == 1)
    dead = await mesh.until("dead-letters", lambda seen: len(seen) >= 5)
    assert len(dead) == 5
    text = " ".join(str(record.headers) for record in dead)
    for word in ("upsert.order_id", "upsert.size", "ORDER_UNKNOWN", "CONFLICTING_CONTENT"):
        assert word in text
