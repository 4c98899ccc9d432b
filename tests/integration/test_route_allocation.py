"""Allocation with a real store, bus and eta at the other end of a wire: who gets what, once, in time."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.order.v1 import order_pb2
from waymesh.order.v1.courier_pb2 import COURIER_STATUS_OFF_SHIFT, COURIER_STATUS_ON_BREAK
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import TimeWindow
from waymesh.route.v1 import allocation_pb2
from waymesh.route.v1 import route_service_pb2 as api
from waymesh.route.v1.route_service_pb2_grpc import RouteServiceStub

from services.mesh import errors
from services.mesh.client import ClientFactory
from services.mesh.events import decode_value
from services.mesh.principal import Principal, acting
from services.mesh.telemetry import Telemetry
from services.route import store
from services.route.allocator import Allocator
from services.route.eta_client import EtaClient, Pair
from services.route.server import Route
from services.route.store_plans import ALLOCATING_LOCK
from services.route.workers import Workers
from tests.integration.route_mesh import Mesh, courier, eventually, fix, order, rows, running, stamp, where


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Mesh]:
    async with running(database, tmp_path) as mesh:
        yield mesh


async def put(mesh: Mesh, *things: Any) -> None:
    couriers = [thing for thing in things if hasattr(thing, "vehicle_type")]
    orders = [thing for thing in things if not hasattr(thing, "vehicle_type")]
    if couriers:
        await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=couriers))
    if orders:
        await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=orders))


async def allocate(mesh: Mesh, *order_ids: str, dry_run: bool = False, timeout: float = 10.0) -> Any:
    request = api.AllocateDriversRequest(order_ids=order_ids, dry_run=dry_run)
    return await mesh.stub.AllocateDrivers(request, timeout=timeout)


async def test_an_order_goes_to_the_nearest_courier_and_everybody_is_told(mesh: Mesh) -> None:
    await put(mesh, courier("far", where(-5)), courier("near", where(-1)), order("o"))
    response = await allocate(mesh)
    (allocation,) = response.allocations
    assert allocation.assigned_driver_id == "near"
    assert 0 < allocation.allocation_score <= 100
    assert allocation.reasoning
    assert [other.driver_id for other in allocation.alternative_drivers] == ["far"]
    assert not response.HasField("degradation")
    (told,) = await mesh.until("driver-allocations", lambda seen: len(seen) == 1)
    assert told.key == "o"
    assert decode_value(told, allocation_pb2.Allocation) == allocation
    seen = await mesh.until("orders", lambda seen: len(seen) == 4)
    newest = decode_value(seen[-1], OrderEvent).order
    assert (newest.revision, newest.status, newest.driver_id) == (2, order_pb2.ORDER_STATUS_ASSIGNED, "near")
    now = await mesh.stub.GetOrder(api.GetOrderRequest(order_id="o"))
    assert now.order == newest
    assert now.allocation == allocation


async def test_the_same_request_again_has_the_same_answer(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"))
    first, second = await allocate(mesh, "o"), await allocate(mesh, "o")
    assert list(second.allocations) == list(first.allocations)
    assert len(await mesh.until("driver-allocations", lambda seen: len(seen) >= 1)) == 1


async def test_a_dry_run_only_says_what_would_be_done(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"))
    response = await allocate(mesh, dry_run=True)
    assert response.allocations[0].assigned_driver_id == "d"
    assert (await mesh.stub.GetOrder(api.GetOrderRequest(order_id="o"))).order.revision == 1
    assert await rows(mesh, "SELECT * FROM allocations") == []


async def test_who_cannot_work_now_gets_nothing(mesh: Mesh) -> None:
    now = time.time()
    await put(
        mesh,
        courier("off", status=COURIER_STATUS_OFF_SHIFT),
        courier("break", status=COURIER_STATUS_ON_BREAK),
        courier("later", shift=TimeWindow(earliest=stamp(now + 3600))),
        courier("over", shift=TimeWindow(latest=stamp(now - 60))),
        order("o"),
    )
    response = await allocate(mesh)
    assert not response.allocations
    assert response.unallocated[0].reason == "no courier is on shift with a known position"


async def test_a_courier_who_fell_silent_long_before_the_others_gets_nothing(mesh: Mesh) -> None:
    now = time.time()
    await put(
        mesh,
        courier("silent", where(-0.1), position_at=stamp(now - 3600)),
        courier("heard", where(-4), position_at=stamp(now)),
        order("o"),
    )
    assert (await allocate(mesh)).allocations[0].assigned_driver_id == "heard"


async def test_what_eta_knows_counts(mesh: Mesh) -> None:
    mesh.eta.wait_minutes = 30.0
    await put(mesh, courier("d"), order("o"))
    response = await allocate(mesh)
    assert not response.allocations
    assert response.unallocated[0].reason.startswith("held back: ready in 35")
    (query,) = mesh.eta.batches[0].queries
    assert query.order.order_id == "o"
    assert query.driver_id == "d"
    assert query.courier_location == where(-1)


async def test_eta_is_asked_once_for_all_orders(mesh: Mesh) -> None:
    await put(mesh, *(courier(f"d{i}", where(-i)) for i in range(3)), *(order(f"o{i}") for i in range(5)))
    await allocate(mesh)
    (batch,) = mesh.eta.batches
    assert len(batch.queries) == 15


async def test_without_eta_the_answer_comes_degraded(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, eta_up=False) as mesh:
        await put(mesh, courier("far", where(-5)), courier("near", where(-1)), order("o"))
        response = await allocate(mesh)
        assert response.allocations[0].assigned_driver_id == "near"
        assert response.degradation.source == "route.fallback_predictions"
        assert response.degradation.reason == "eta: UNAVAILABLE"


async def test_an_eta_that_hangs_does_not_take_the_answer_along(mesh: Mesh) -> None:
    mesh.eta.pause = asyncio.Event()
    await put(mesh, courier("d"), order("o"))
    response = await allocate(mesh, timeout=4)
    assert response.allocations[0].assigned_driver_id == "d"
    assert response.degradation.reason == "eta: DEADLINE_EXCEEDED"
    assert mesh.eta.remaining_s[0] < 1.0


async def test_what_does_not_fit_the_deadline_is_left_for_the_next_tick(mesh: Mesh) -> None:
    await put(mesh, *(courier(f"d{i}") for i in range(20)), *(order(f"o{i}") for i in range(150)))
    response = await allocate(mesh, timeout=1.5)
    assert response.degradation.source == "route.partial_allocation"
    assert len(response.unallocated) > 0
    assert len(response.allocations) + len(response.unallocated) == 150


async def test_two_who_allocate_at_once_assign_each_order_once(mesh: Mesh, database: str) -> None:
    other = Route(mesh.settings, database)
    await other.start()
    try:
        await put(mesh, *(courier(f"d{i}", where(-i / 5)) for i in range(8)))
        await put(mesh, *(order(f"o{i}") for i in range(20)))
        clients = ClientFactory("test", telemetry=Telemetry("test"))
        second = clients.stub(RouteServiceStub, f"127.0.0.1:{other.server.port}")
        request = api.AllocateDriversRequest()
        answers = await asyncio.gather(
            *(stub.AllocateDrivers(request, timeout=20) for stub in (mesh.stub, second) * 3)
        )
        await clients.close()
        given = [a.order_id for answer in answers for a in answer.allocations]
        assert sorted(given) == sorted(f"o{i}" for i in range(20))
        seen = await mesh.until("driver-allocations", lambda seen: len(seen) >= 20)
        assert len(seen) == 20
        (most,) = await rows(mesh, "SELECT max(n) FROM (SELECT count(*) n FROM orders GROUP BY driver_id) x")
        assert most[0] <= 4
    finally:
        await other.stop()


async def test_only_one_ticks_while_another_holds_the_lock(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"))
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    eta = EtaClient(clients.stub(EtaServiceStub, mesh.settings.eta_target), 1.0)
    allocator = Allocator(mesh.store, mesh.bus, eta, Workers(), mesh.settings)
    other = await asyncpg.connect(mesh.database)
    try:
        await other.execute("SELECT pg_advisory_lock($1)", ALLOCATING_LOCK)
        assert await allocator.tick() is None
        assert (await rows(mesh, "SELECT status FROM orders"))[0]["status"] == 1
        with pytest.raises(errors.Unavailable, match="other allocations are under way") as caught:
            await allocate(mesh, timeout=0.4)
        assert caught.value.retry_after_s
        assert [one.order_id for one in (await allocate(mesh, "o", timeout=60)).allocations] == ["o"]
        await put(mesh, order("o2"))
    finally:
        await other.close()
    answer = await allocator.tick()
    assert answer is not None
    assert [one.order_id for one in answer.allocations] == ["o2"]
    await clients.close()


async def test_named_orders_do_not_wait_for_a_tick_which_leaves_out_what_they_took(mesh: Mesh) -> None:
    await put(mesh, courier("d"), courier("far", where(-5)), order("o1"), order("o2"), order("o3", where(5)))
    async with one_that_halts(mesh) as (allocator, eta):
        tick = asyncio.create_task(allocator.tick())
        await eta.asked.wait()
        (named,) = (await allocate(mesh, "o1", timeout=60)).allocations
        assert named.assigned_driver_id == "d"
        eta.go_on.set()
        answer = await tick
    assert answer is not None
    lost = {waiting.order_id for waiting in answer.waiting if waiting.reason == "changed meanwhile"}
    assert "o1" in lost
    assert all(one.assigned_driver_id != "d" for one in answer.allocations)
    found = await rows(mesh, "SELECT order_id, driver_id FROM allocations ORDER BY order_id")
    assert [row["driver_id"] for row in found if row["order_id"] == "o1"] == ["d"]
    assert {row["order_id"] for row in found} == {"o1"} | {one.order_id for one in answer.allocations}


async def test_named_orders_that_lost_to_another_are_looked_at_again(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o1"), order("o2"))
    async with one_that_halts(mesh) as (allocator, eta):
        named = asyncio.create_task(allocator.on_demand(["o1", "o2"], dry_run=False))
        await eta.asked.wait()
        assert len((await allocate(mesh, "o1", timeout=60)).allocations) == 1
        eta.go_on.set()
        answer = await named
    assert sorted(one.order_id for one in answer.allocations) == ["o1", "o2"]
    assert not answer.waiting
    assert len(await mesh.until("driver-allocations", lambda seen: len(seen) >= 2)) == 2


async def test_an_order_given_away_between_two_looks_is_in_the_answer(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(mesh, courier("d"), order("o1"), order("o2"))
    looked = store.waiting_orders

    async def after_another(*arguments: Any) -> Any:
        monkeypatch.setattr(store, "waiting_orders", looked)
        assert len((await allocate(mesh, "o1", timeout=60)).allocations) == 1
        return await looked(*arguments)

    monkeypatch.setattr(store, "waiting_orders", after_another)
    answer = await allocate(mesh, "o1", "o2", timeout=60)
    assert sorted(one.order_id for one in answer.allocations) == ["o1", "o2"]


async def test_one_tenants_backlog_holds_up_nobody_else(mesh: Mesh) -> None:
    now = 1000.0

    class Slow(EtaClient):
        async def forecasts(self, pairs: Sequence[Pair], at: float) -> Any:
            nonlocal now
            if any(pair.order.order_id.startswith("busy/") for pair in pairs):
                now += 60.0
            return await super().forecasts(pairs, at)

    with acting(Principal("busy")):
        await put(mesh, courier("d"), *(order(f"o{i}") for i in range(30)))
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    eta = Slow(clients.stub(EtaServiceStub, mesh.settings.eta_target), 60.0)
    workers = Workers()
    settings = mesh.settings.model_copy(update={"allocation_tick_s": 10.0})
    allocator = Allocator(mesh.store, mesh.bus, eta, workers, settings, timer=lambda: now)
    try:
        first = await allocator.tick()
        assert first is not None
        assert first.allocations
        await put(mesh, courier("other"), order("other"))
        second = await allocator.tick()
        assert second is not None
        assert [one.order_id for one in second.allocations] == ["other"]
        assert second.weighed == 1
        now += 60.0
        third = await allocator.tick()
        assert third is not None
        assert first.weighed == 30
        assert 0 < third.weighed < 10  # 2 s each, and 5 s in all
    finally:
        await workers.close()
        await clients.close()


class Halting(EtaClient):
    """Asks eta once it is told to go on."""

    def __init__(self, stub: Any, patience_s: float) -> None:
        super().__init__(stub, patience_s)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def forecasts(self, pairs: Sequence[Pair], now: float) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await super().forecasts(pairs, now)


@asynccontextmanager
async def one_that_halts(mesh: Mesh) -> AsyncIterator[tuple[Allocator, Halting]]:
    """Another allocator on the same store, which waits between reading and weighing."""
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    eta = Halting(clients.stub(EtaServiceStub, mesh.settings.eta_target), 60.0)
    yield Allocator(mesh.store, mesh.bus, eta, Workers(), mesh.settings), eta
    await clients.close()


async def test_nobody_waits_while_the_worker_process_of_a_large_tick_starts(mesh: Mesh) -> None:
    starting, go_on = asyncio.Event(), asyncio.Event()

    class Slow(Workers):
        async def warm_up(self) -> None:
            starting.set()
            await go_on.wait()
            await super().warm_up()

    await put(mesh, *(courier(f"d{i}") for i in range(12)), *(order(f"o{i}") for i in range(30)))
    clients = ClientFactory("test", telemetry=Telemetry("test"))
    eta = EtaClient(clients.stub(EtaServiceStub, mesh.settings.eta_target), 1.0)
    workers = Slow()
    try:
        tick = asyncio.create_task(Allocator(mesh.store, mesh.bus, eta, workers, mesh.settings).tick())
        await starting.wait()
        assert len((await allocate(mesh, "o1")).allocations) == 1
        go_on.set()
        answer = await tick
        assert answer is not None
        assert len(answer.allocations) + len(answer.waiting) == 29
        assert workers.warm
    finally:
        await workers.close()
        await clients.close()


async def test_who_hangs_up_before_the_commit_has_assigned_nothing(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"))
    mesh.eta.pause = asyncio.Event()
    call = asyncio.create_task(allocate(mesh))
    async with asyncio.timeout(60):
        await mesh.eta.asked.wait()
        call.cancel()
        await mesh.eta.cancelled.wait()
    mesh.eta.pause = None
    assert (await rows(mesh, "SELECT status FROM orders"))[0]["status"] == 1
    assert await rows(mesh, "SELECT * FROM allocations") == []
    assert (await allocate(mesh)).allocations[0].assigned_driver_id == "d"


async def test_a_commit_that_is_cut_off_assigns_nothing(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"))
    blocker = await asyncpg.connect(mesh.database)
    try:
        await blocker.execute("SET search_path = route")
        await blocker.execute("BEGIN")
        await blocker.execute("SELECT * FROM orders FOR UPDATE")
        call = asyncio.create_task(allocate(mesh))
        await eventually(
            lambda: rows(
                mesh, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
        )
        with pytest.raises(errors.Unavailable):
            await call
        await blocker.execute("ROLLBACK")
    finally:
        await blocker.close()
    assert await rows(mesh, "SELECT * FROM allocations") == []
    assert mesh.seen["driver-allocations"] == []
    assert (await allocate(mesh)).allocations[0].assigned_driver_id == "d"


async def test_an_order_that_changes_meanwhile_is_left_as_it_is(mesh: Mesh) -> None:
    await put(mesh, courier("d"), order("o"), order("p"))
    mesh.eta.pause = asyncio.Event()
    call = asyncio.create_task(allocate(mesh))
    async with asyncio.timeout(60):
        await mesh.eta.asked.wait()
    await put(mesh, order("o", revision=2, priority=3))
    mesh.eta.pause.set()
    response = await call
    assert [a.order_id for a in response.allocations] == ["p"]
    assert [(u.order_id, u.reason) for u in response.unallocated] == [("o", "changed meanwhile")]


async def test_a_tick_comes_soon_when_an_order_waits(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, allocation_gap_s=0.0) as mesh:
        await put(mesh, courier("d"), order("o"))
        (told,) = await mesh.until("driver-allocations", lambda seen: len(seen) == 1)
        assert decode_value(told, allocation_pb2.Allocation).assigned_driver_id == "d"


async def test_a_tick_comes_soon_when_a_courier_becomes_free(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, allocation_gap_s=0.0) as mesh:
        await put(mesh, courier("d"), *(order(f"old{i}") for i in range(4)))
        await mesh.until("driver-allocations", lambda seen: len(seen) == 4)
        await put(mesh, order("new"))
        now = time.time()
        for i in range(4):
            await mesh.publish("gps-events", "d", fix("d", f"old{i}", 6, now + i, where(3)), f"f{i}")
        seen = await mesh.until("driver-allocations", lambda seen: len(seen) == 5)
        assert seen[-1].key == "new"
