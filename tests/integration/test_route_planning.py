"""Planning stops on demand and by triggers, with a real store, bus and eta at the other end of a wire."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.vehicle_pb2 import VEHICLE_TYPE_BICYCLE
from waymesh.order.v1 import order_pb2
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import TimeWindow
from waymesh.route.v1 import route_pb2
from waymesh.route.v1 import route_service_pb2 as api

from services.mesh import errors
from services.mesh.events import decode_value
from tests.integration.route_mesh import Mesh, courier, eventually, fix, order, rows, running, stamp, where

ASSIGNED, PICKED_UP = order_pb2.ORDER_STATUS_ASSIGNED, order_pb2.ORDER_STATUS_PICKED_UP
IDLE, TO_PICKUP, TO_DESTINATION, DELIVERED = 1, 2, 4, 6


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def optimize(mesh: Mesh, timeout: float = 10.0, **request: Any) -> api.OptimizeRouteResponse:
    return await mesh.stub.OptimizeRoute(api.OptimizeRouteRequest(**request), timeout=timeout)


def stops(found: Any) -> list[tuple[str, int]]:
    return [(stop.order_id, stop.kind) for stop in found]


PICKUP, DROPOFF = route_pb2.STOP_KIND_PICKUP, route_pb2.STOP_KIND_DROPOFF
FAST = route_pb2.Plane(speed_kph=40)


async def test_a_plane_needs_nobody_else(mesh: Mesh) -> None:
    response = await optimize(
        mesh,
        start=where(0),
        start_time=stamp(1_700_000_000),
        orders=[order("far", where(4), where(6)), order("near", where(1), where(2))],
        plane=FAST,
    )
    assert stops(response.plan.stops) == [
        ("near", PICKUP),
        ("near", DROPOFF),
        ("far", PICKUP),
        ("far", DROPOFF),
    ]
    assert stops(response.optimization.original_route)[0] == ("far", PICKUP)
    assert response.optimization.time_savings > 0
    assert "shorter" in response.optimization.reason
    assert response.plan.distance_m == pytest.approx(6000, abs=10)
    assert response.plan.stops[0].time.seconds == pytest.approx(1_700_000_000 + 90, abs=2)
    assert not response.HasField("degradation")
    assert not mesh.eta.matrices


async def test_a_matrix_is_taken_as_it_stands(mesh: Mesh) -> None:
    seconds = [0, 60, 600, 60, 0, 120, 600, 120, 0]
    response = await optimize(
        mesh,
        start=where(0),
        orders=[order("o", where(1), where(2))],
        matrix=route_pb2.TravelTimeMatrix(durations_s=seconds, distances_m=[10 * s for s in seconds]),
    )
    assert response.plan.distance_m == 1800
    assert response.plan.duration_minutes == pytest.approx((60 + 120 + 120 + 120) / 60)


@pytest.mark.parametrize(("durations", "distances"), [([0] * 8, []), ([0] * 9, [0] * 4)])
async def test_a_matrix_that_does_not_fit_is_refused(
    mesh: Mesh, durations: list[int], distances: list[int]
) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        await optimize(
            mesh,
            start=where(0),
            orders=[order("o")],
            matrix=route_pb2.TravelTimeMatrix(durations_s=durations, distances_m=distances),
        )
    assert caught.value.reason_name == "MATRIX_SIZE"
    assert caught.value.metadata["expected"] == "9"


async def test_eta_gives_the_travel_times_by_default(mesh: Mesh) -> None:
    response = await optimize(mesh, start=where(-1), orders=[order("o")], driver_id="d")
    assert response.plan.duration_minutes == pytest.approx(5 + 2 + 5 + 2)
    assert len(mesh.eta.matrices[0].origins) == 3


async def test_without_eta_the_plan_comes_degraded(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, eta_up=False) as mesh:
        response = await optimize(mesh, start=where(0), orders=[order("o")])
        assert response.degradation.source == "route.fallback_travel_times"
        assert response.degradation.reason == "eta: UNAVAILABLE"
        assert len(response.plan.stops) == 2


async def test_the_last_hop_sees_the_budget_reduced_and_a_slow_eta_is_done_without(mesh: Mesh) -> None:
    mesh.eta.pause = asyncio.Event()
    response = await optimize(mesh, timeout=1.8, start=where(0), orders=[order("o")])
    assert response.degradation.reason == "eta: DEADLINE_EXCEEDED"
    assert mesh.eta.remaining_s[0] <= 0.9


async def test_who_hangs_up_cancels_the_last_hop(mesh: Mesh) -> None:
    mesh.eta.pause = asyncio.Event()
    call = asyncio.create_task(optimize(mesh, start=where(0), orders=[order("o")]))
    async with asyncio.timeout(60):
        await mesh.eta.asked.wait()
        call.cancel()
        await mesh.eta.cancelled.wait()


async def test_alternatives_trade_time_for_way(mesh: Mesh) -> None:
    # Over the first pickup it is quicker, over the second shorter.
    n = 5
    seconds = [[0 if i == j else 600 for j in range(n)] for i in range(n)]
    metres = [[0 if i == j else 3000 for j in range(n)] for i in range(n)]
    for a, b in ((0, 1), (1, 2), (2, 3), (3, 4)):
        seconds[a][b] = 100
    for a, b in ((0, 3), (3, 4), (4, 1), (1, 2)):
        metres[a][b] = 500
    response = await optimize(
        mesh,
        start=where(0),
        orders=[order("a"), order("b")],
        matrix=route_pb2.TravelTimeMatrix(
            durations_s=[s for row in seconds for s in row], distances_m=[m for row in metres for m in row]
        ),
        max_alternatives=5,
    )
    assert response.alternatives
    plans = [response.plan, *(alternative.plan for alternative in response.alternatives)]
    for alternative in response.alternatives:
        assert alternative.reason
        assert alternative.extra_minutes == pytest.approx(
            alternative.plan.duration_minutes - response.plan.duration_minutes
        )
        assert not any(
            other.duration_minutes <= alternative.plan.duration_minutes
            and other.distance_m <= alternative.plan.distance_m
            for other in plans
            if other != alternative.plan
        )


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (route_pb2.RouteLimits(max_duration_minutes=1), "max_duration_minutes"),
        (route_pb2.RouteLimits(max_length_km=1), "max_length_km"),
        (route_pb2.RouteLimits(max_food_wait_minutes=0), "max_food_wait_minutes"),
    ],
)
async def test_the_limit_that_cannot_be_kept_is_named(
    mesh: Mesh, limits: route_pb2.RouteLimits, limit: str
) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        await optimize(
            mesh, start=where(0), orders=[order("o", where(2), where(4))], plane=FAST, limits=limits
        )
    assert caught.value.reason_name == "NO_FEASIBLE_PLAN"
    assert caught.value.metadata == {"limit": limit}


async def test_a_bicycle_goes_no_further_than_15_km_by_default(mesh: Mesh) -> None:
    far = order("o", where(2), where(18))
    bicycle = courier("d", vehicle_type=VEHICLE_TYPE_BICYCLE)
    with pytest.raises(errors.FailedPrecondition):
        await optimize(mesh, start=where(0), orders=[far], courier=bicycle, plane=FAST)
    limits = route_pb2.RouteLimits(max_length_km=30)
    assert (
        await optimize(mesh, start=where(0), orders=[far], courier=bicycle, plane=FAST, limits=limits)
    ).plan


@pytest.mark.parametrize(
    ("request_", "error", "reason"),
    [
        ({"driver_id": "nobody"}, errors.NotFound, "COURIER_UNKNOWN"),
        ({"driver_id": "nobody", "orders": [order("o")]}, errors.FailedPrecondition, "POSITION_UNKNOWN"),
        ({}, errors.InvalidArgument, "INVALID_FIELD"),
        ({"start": where(0), "orders": [order("o"), order("o")]}, errors.InvalidArgument, "INVALID_FIELD"),
        (
            {"start": where(0), "orders": [order("o", status=order_pb2.ORDER_STATUS_CANCELLED)]},
            errors.InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            {"start": where(0), "matrix": route_pb2.TravelTimeMatrix(durations_s=[0])},
            errors.InvalidArgument,
            "INVALID_FIELD",
        ),
        (
            {"start": where(0), "start_time": stamp(200_000_000_000), "orders": [order("o")]},
            errors.InvalidArgument,
            "INVALID_FIELD",
        ),
    ],
)
async def test_what_cannot_be_planned_is_refused(
    mesh: Mesh, request_: dict[str, Any], error: type[errors.MeshError], reason: str
) -> None:
    with pytest.raises(error) as caught:
        await optimize(mesh, **request_)
    assert caught.value.reason_name == reason


async def give(mesh: Mesh, driver: str, *orders: Any) -> None:
    await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=[courier(driver, where(0))]))
    for one in orders:
        one.status, one.driver_id = one.status if one.status == PICKED_UP else ASSIGNED, driver
    await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=orders))


async def test_a_courier_s_own_orders_are_planned_from_the_last_fix(mesh: Mesh) -> None:
    await give(mesh, "d", order("a", where(1), where(5)), order("b", status=PICKED_UP, dropoff=where(3)))
    await mesh.publish("gps-events", "d", fix("d", "a", TO_PICKUP, time.time(), where(2.5)), "f")
    await eventually(lambda: rows(mesh, "SELECT * FROM positions"))
    response = await optimize(mesh, driver_id="d", plane=FAST)
    assert stops(response.plan.stops) == [("b", DROPOFF), ("a", PICKUP), ("a", DROPOFF)]
    assert response.plan.stops[0].distance_m == pytest.approx(500, abs=10)


async def planned(mesh: Mesh, driver: str = "d") -> list[tuple[str, int]] | None:
    found = await rows(mesh, "SELECT body FROM plans WHERE driver_id = $1 AND orders >= 2", driver)
    return stops(route_pb2.RoutePlan.FromString(found[0]["body"]).stops) if found else None


async def test_stages_move_orders_and_the_news_is_published(mesh: Mesh) -> None:
    await give(mesh, "d", order("o"))
    now = time.time()
    for number, stage in enumerate(
        (TO_PICKUP, 3, TO_DESTINATION, TO_DESTINATION, 5, DELIVERED, DELIVERED, IDLE)
    ):
        name = "" if stage == IDLE else "o"
        await mesh.publish("gps-events", "d", fix("d", name, stage, now + number), f"f{number}")
    seen = await mesh.until("orders", lambda seen: decode_value(seen[-1], OrderEvent).order.status == 4)
    newest = decode_value(seen[-1], OrderEvent).order
    assert newest.picked_up_at.ToMicroseconds() == round((now + 2) * 1e6)
    assert newest.delivered_at.ToMicroseconds() == round((now + 5) * 1e6)
    statuses = [decode_value(r, OrderEvent).order.status for r in seen if r.key == "o"]
    assert statuses == sorted(statuses)


async def test_fixes_of_an_unknown_courier_make_nothing_but_a_position(mesh: Mesh) -> None:
    await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=[order("o")]))
    await mesh.publish("gps-events", "ghost", fix("ghost", "o", DELIVERED, time.time()), "f")
    await eventually(lambda: rows(mesh, "SELECT * FROM positions WHERE driver_id = 'ghost'"))
    assert await rows(mesh, "SELECT * FROM couriers") == []
    assert (await rows(mesh, "SELECT status, revision FROM orders"))[0]["status"] == 1


async def test_late_and_repeated_fixes_change_nothing(mesh: Mesh) -> None:
    await give(mesh, "d", order("o"))
    now = time.time()
    await mesh.publish("gps-events", "d", fix("d", "o", TO_DESTINATION, now, where(2)), "new")
    await mesh.publish("gps-events", "d", fix("d", "o", TO_PICKUP, now - 60, where(1)), "old")
    await mesh.publish("gps-events", "d", fix("d", "o", TO_DESTINATION, now, where(2)), "again")
    await mesh.publish("gps-events", "e", fix("e", "", IDLE, now), "last")
    await eventually(lambda: rows(mesh, "SELECT * FROM positions WHERE driver_id = 'e'"))
    await eventually(lambda: rows(mesh, "SELECT * FROM orders WHERE status = 3"))
    (kept,) = await rows(mesh, "SELECT lon, stage FROM positions WHERE driver_id = 'd'")
    assert kept["stage"] == TO_DESTINATION
    assert kept["lon"] == pytest.approx(where(2).lon)
    assert (await rows(mesh, "SELECT revision FROM orders"))[0]["revision"] == 2


async def deviate(mesh: Mesh, **more: Any) -> Any:
    """A courier with two orders whose travel times change so that the other order should go first."""
    late = TimeWindow(latest=stamp(time.time() + 3600))
    await give(
        mesh,
        "d",
        order("a", status=PICKED_UP, dropoff=where(5), promised_window=late),
        order("b", status=PICKED_UP, dropoff=where(-5), promised_window=late),
    )
    before = await eventually(lambda: planned(mesh))
    await mesh.publish("gps-events", "d", fix("d", "a", TO_DESTINATION, time.time(), **more), "f")
    return before


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({"traffic_density": gps_pb2.TRAFFIC_DENSITY_HEAVY}, "traffic"),
        ({"traffic_density": gps_pb2.TRAFFIC_DENSITY_SEVERE}, "traffic"),
        ({"speed_kph": 95.0}, "traffic"),
        ({}, "the courier left the planned way"),
    ],
)
async def test_a_better_order_of_stops_is_published(
    database: str, tmp_path: Path, more: dict[str, Any], cause: str
) -> None:
    async with running(database, tmp_path, reroute_gap_s=0.0, eta_up=False) as mesh:
        before = await deviate(mesh, place=where(0), speed_kph=1.0)
        target = -4.5 if before[0][0] == "a" else 4.5
        # Ten kilometres to the other side, next to the stop that was to come last.
        at = time.time() + 1
        await mesh.publish("gps-events", "d", fix("d", "a", TO_DESTINATION, at, where(target), **more), "g")
        (record,) = await mesh.until("route-optimizations", lambda seen: len(seen) == 1)
        told = decode_value(record, route_pb2.RouteOptimization)
        assert record.key == told.driver_id == "d"
        assert stops(told.original_route) == before
        assert stops(told.optimized_route) == before[::-1]
        assert told.time_savings > 0
        assert told.optimized_distance_m < told.original_distance_m
        assert told.reason.startswith(cause)
        assert await planned(mesh) == before[::-1]


async def test_a_courier_on_the_way_is_left_alone(mesh: Mesh) -> None:
    await deviate(mesh, place=where(0))
    await mesh.publish("gps-events", "e", fix("e", "", IDLE, time.time()), "last")
    await eventually(lambda: rows(mesh, "SELECT * FROM positions WHERE driver_id = 'e'"))
    assert mesh.seen["route-optimizations"] == []
