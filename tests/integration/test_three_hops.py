"""Gateway → route → eta, each a process that exports its spans to a collector: budgets, errors, hang-ups."""

import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import pytest
from otlp_collector import ERROR, OK, Hop
from three_hops_rig import ThreeHops, refusal, three_hops

ROUTE = ("gateway server", "gateway client", "route server")
ETA = ("gateway server", "gateway client", "eta server")
ALL = (*ROUTE, "route client", "eta server")
ORDER = {
    "order_id": "o",
    "revision": 1,
    "status": "placed",
    "pickup": {"lat": 0.0, "lon": 0.01},
    "dropoff": {"lat": 0.0, "lon": 0.03},
    "placed_at": "2026-01-01T12:00:00Z",
}
COURIER = {
    "driver_id": "c",
    "revision": 1,
    "vehicle_type": "motorcycle",
    "status": "idle",
    "position": {"lat": 0.0, "lon": 0.005},
}
DRY_RUN = {"dry_run": True}
HANG_UPS = 20
# For what takes milliseconds, on a machine that may have much else to do.
GUARD_S = 15.0
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def codes(hops: list[Hop]) -> list[int]:
    """The gRPC codes below the gateway's own span; each span's status is checked against them."""
    for hop in hops[1:]:
        assert hop.status == (OK if hop.code == 0 else ERROR), hop
    return [hop.code for hop in hops[1:]]


async def fill(mesh: ThreeHops) -> None:
    """One order waits, one courier is there, and every connection is made."""
    assert (await mesh.ask("upsert_couriers", {"couriers": [COURIER]})).reply.status == 200
    assert (await mesh.ask("upsert_orders", {"orders": [ORDER]})).reply.status == 200
    assert (await mesh.ask("allocate_drivers", DRY_RUN)).reply.status == 200


async def test_a_budget_at_the_edge_shrinks_from_hop_to_hop(database: str, tmp_path: Path) -> None:
    async with three_hops(database, tmp_path, real_eta=True) as mesh:
        await fill(mesh)
        for _ in range(20):  # a machine with much else to do may not get as far as eta in that time
            asked = await mesh.ask("allocate_drivers", DRY_RUN, timeout_ms=300)
            if asked.reply.status == 200 and "degraded" not in asked.reply.json:
                break
        hops = await mesh.trace(asked, *ALL)
        route_ms, eta_ms = (
            hop.attributes["waymesh.budget_ms"] for hop in hops if hop.place in ("route server", "eta server")
        )
        print(f"\n300 ms at the edge: {route_ms} ms at route, {eta_ms} ms at eta")
        assert hops[-1].name == "waymesh.eta.v1.EtaService/BatchPredictEta"
        # Each keeps a tenth for its own answer, and route gives eta half of what it has left.
        assert route_ms <= 300 * 0.9
        assert 0 < eta_ms <= route_ms * 0.5
        assert codes(hops) == [0, 0, 0, 0]
        assert hops[0].status == OK
        assert hops[0].attributes["http.response.status_code"] == 200
        assert hops[0].attributes["waymesh.task"] == "allocate_drivers"


async def test_every_hop_tells_the_true_status_of_every_error(database: str, tmp_path: Path) -> None:
    async with three_hops(database, tmp_path) as mesh:
        await fill(mesh)
        for code in CODES:
            # Through route, which answers without eta then.
            mesh.eta.fails_with = refusal(code)
            asked = await mesh.ask("allocate_drivers", DRY_RUN)
            assert asked.reply.json["degraded"]["reason"] == f"eta: {code.name}"
            hops = await mesh.trace(asked, *ALL)
            assert codes(hops) == [0, 0, code.value[0], code.value[0]]
            assert hops[0].status == OK
            # And all the way to the client.
            asked = await mesh.ask("predict_eta", {"order_id": "o"})
            hops = await mesh.trace(asked, *ETA)
            assert codes(hops) == [code.value[0], code.value[0]]
            assert asked.reply.json["code"] == code.name
            assert_failed(hops[0], asked.reply.status, code)
            # One that goes well in between keeps the breakers closed.
            mesh.eta.again()
            hops = await mesh.trace(await mesh.ask("allocate_drivers", DRY_RUN), *ALL)
            assert codes(hops) == [0, 0, 0, 0]
            hops = await mesh.trace(await mesh.ask("predict_eta", {"order_id": "o"}), *ETA)
            assert codes(hops) == [0, 0]
        for code, task, parameters in ROUTES_OWN:
            asked = await mesh.ask(task, parameters)
            assert asked.reply.json["code"] == code.name, asked.reply.json
            hops = await mesh.trace(asked, *ROUTE)
            assert codes(hops) == [code.value[0]] * 2
            assert_failed(hops[0], asked.reply.status, code)


ROUTES_OWN: list[tuple[grpc.StatusCode, str, Any]] = [
    (grpc.StatusCode.NOT_FOUND, "get_order", {"order_id": "nobody's"}),
    (grpc.StatusCode.INVALID_ARGUMENT, "get_order", {"order_id": ""}),
    (grpc.StatusCode.ALREADY_EXISTS, "upsert_orders", {"orders": [{**ORDER, "priority": 2}]}),
]


def assert_failed(edge: Hop, status: int, code: grpc.StatusCode) -> None:
    """The gateway's own span."""
    assert edge.status == ERROR
    assert edge.attributes["http.response.status_code"] == status >= 400
    assert edge.attributes["error.type"] == code.name


async def test_every_hop_tells_of_a_deadline_that_has_passed(database: str, tmp_path: Path) -> None:
    late = grpc.StatusCode.DEADLINE_EXCEEDED
    async with three_hops(database, tmp_path) as mesh:
        await fill(mesh)
        mesh.eta.hangs = True
        # eta's share passes; route has kept enough to answer without it.
        asked = await mesh.ask("allocate_drivers", DRY_RUN, timeout_ms=2000)
        assert asked.reply.json["degraded"]["reason"] == "eta: DEADLINE_EXCEEDED"
        assert codes(await mesh.trace(asked, *ALL)) == [0, 0, 4, 4]
        mesh.eta.again()
        mesh.eta.hangs = True
        asked = await mesh.ask("predict_eta", {"order_id": "o"}, timeout_ms=300)
        hops = await mesh.trace(asked, *ETA)
        assert codes(hops) == [4, 4]
        assert asked.reply.status == 504
        assert_failed(hops[0], 504, late)
        # The store hangs, and route with it.
        holder = await asyncpg.connect(database)
        try:
            async with holder.transaction():
                await holder.execute("LOCK TABLE route.orders IN ACCESS EXCLUSIVE MODE")
                asked = await mesh.ask("get_order", {"order_id": "o"}, timeout_ms=300)
        finally:
            await holder.close()
        hops = await mesh.trace(asked, *ROUTE)
        assert codes(hops) == [4, 4]
        assert_failed(hops[0], 504, late)


async def test_a_client_that_hangs_up_cancels_the_last_hop(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took_ms = []
    async with three_hops(database, tmp_path, WAYMESH_ROUTE_ETA_TIMEOUT_S="60") as mesh:
        await fill(mesh)
        for _ in range(HANG_UPS):
            mesh.eta.again()
            mesh.eta.hangs = True
            client, headers = mesh.client(), mesh.headers()
            asking = asyncio.create_task(
                client.task("allocate_drivers", DRY_RUN, headers=headers, timeout_ms=60_000)
            )
            await asyncio.wait_for(mesh.eta.reached.wait(), GUARD_S)
            hung_up = time.monotonic()
            await client.close()
            # Nothing else ends the call before its deadline, which is later than the guard.
            left = await asyncio.wait_for(mesh.eta.left_at, GUARD_S)
            took_ms.append((left - hung_up) * 1000)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            hops = await mesh.collector.trace(f"{mesh.asked:032x}", len(ALL))
            assert [hop.place for hop in hops] == list(ALL)
            assert hops[-1].attributes["waymesh.budget_ms"] > GUARD_S * 1000
            assert codes(hops) == [1, 1, 1, 1]
            assert hops[0].status == ERROR
            assert hops[0].attributes["http.response.status_code"] == 499
    took_ms.sort()
    with capsys.disabled():
        middle_ms = took_ms[HANG_UPS // 2]
        print(f"\nhang-up to last hop: median {middle_ms:.1f} ms, {took_ms[0]:.1f} to {took_ms[-1]:.1f} ms")
