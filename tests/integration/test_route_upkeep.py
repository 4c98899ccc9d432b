"""What runs beside the requests: the worker process, and the removal of what is over."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

import psutil
from waymesh.order.v1.events_pb2 import Cancellation
from waymesh.route.v1 import route_service_pb2 as api

from services.route.housekeeping import Housekeeping
from services.route.workers import Workers
from tests.integration.route_mesh import courier, order, rows, running


def where_am_i(word: str, times: int = 1) -> tuple[int, str]:
    return os.getpid(), word * times


async def test_heavy_work_is_done_in_another_process() -> None:
    workers = Workers()
    try:
        here, _ = await workers.run(False, where_am_i, "light")
        there, said = await workers.run(True, where_am_i, "ho", times=3)
        assert here == os.getpid() != there
        assert said == "hohoho"
        os.kill(there, signal.SIGKILL)
        again, _ = await workers.run(True, where_am_i, "after")
        assert again not in (here, there)
    finally:
        await workers.close()
    assert not psutil.pid_exists(again)


async def test_the_loop_goes_on_while_heavy_work_is_done() -> None:
    workers = Workers()
    try:
        working = asyncio.create_task(workers.run(True, sum, range(3_000_000)))
        turns = 0
        while not working.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 10
    finally:
        await workers.close()


async def test_what_is_over_for_long_is_forgotten(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path) as mesh:
        await mesh.stub.UpsertOrders(
            api.UpsertOrdersRequest(orders=[order("old"), order("new"), order("open")])
        )
        for name in ("old", "new"):
            cancellation = Cancellation(order_id=name)
            await mesh.stub.CancelOrder(api.CancelOrderRequest(cancellation=cancellation))
        await mesh.store.pool.execute(
            "UPDATE orders SET changed_at = now() - interval '40 days' WHERE order_id IN ('old', 'open')"
        )
        assert await Housekeeping(mesh.store, keep=timedelta(days=30)).clean() == 1
        left = {row["order_id"] for row in await rows(mesh, "SELECT order_id FROM orders")}
        assert left == {"new", "open"}
        assert not await rows(mesh, "SELECT * FROM revisions WHERE id = 'old'")


async def test_calls_and_ticks_leave_their_outcomes(database: str, tmp_path: Path) -> None:
    async with running(database, tmp_path, enable_outcome_logging=True, allocation_gap_s=0.0) as mesh:
        await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=[courier("d")]))
        await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=[order("o")]))
        await mesh.until("driver-allocations", lambda seen: len(seen) == 1)
    spooled = b"".join(path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file())
    for action in (b"upsert_couriers", b"upsert_orders", b"allocation_tick"):
        assert action in spooled
