"""What a request sets off is published under its id, however many requests one commit or one batch holds."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from eta_rig import order, rig, way
from waymesh.eta.v1.gps_stream_pb2 import ReportGpsRequest
from waymesh.gps.v1.gps_pb2 import TRIP_STAGE_TO_DESTINATION
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import ORDER_STATUS_ASSIGNED
from waymesh.route.v1 import route_service_pb2 as api

from services.mesh.events import Message, cause_of
from services.mesh.request_id import headers_of, serving
from tests.integration import route_mesh

COURIERS = range(12)
NOW_S = 1_724_841_000.0


async def asked(request_id: str, call: Awaitable[Any]) -> None:
    """Within a request."""
    with serving(request_id):
        await call


async def test_each_fix_and_its_prediction_go_under_the_request_that_brought_it(
    database: str, tmp_path: Path
) -> None:
    async with rig(database, tmp_path) as mesh:
        await mesh.place(*(order(n) for n in COURIERS))
        stub = mesh.stub(await mesh.start())
        fixes = [way(n)[1] for n in COURIERS]
        await asyncio.gather(
            *(asked(f"request-{n}", stub.ReportGps(ReportGpsRequest(event=fixes[n]))) for n in COURIERS)
        )

        async def predicted() -> bool:
            return len(await mesh.records("eta-predictions")) >= len(COURIERS)

        await mesh.until(predicted, "every order has its prediction")
        reported = {record.key: cause_of(record) for record in await mesh.records("gps-events")}
        predictions = {record.key: cause_of(record) for record in await mesh.records("eta-predictions")}
    assert reported == {f"driver_{n}": f"request-{n}" for n in COURIERS}
    assert predictions == {f"order_{n}": f"request-{n}" for n in COURIERS}


async def test_predictions_of_fixes_that_came_in_one_batch_go_each_under_its_own_request(
    database: str, tmp_path: Path
) -> None:
    async with rig(database, tmp_path) as mesh:
        await mesh.place(*(order(n) for n in COURIERS))
        await mesh.publish(
            *(
                Message(
                    "gps-events", "one partition", way(n)[step].SerializeToString(), f"{n}-{step}", "t",
                    headers=headers_of(f"request-{n}" if n else f"request-{step}"),
                )
                for n in COURIERS
                for step in (1, 2)
            )
        )  # fmt: skip
        await mesh.start()

        async def predicted() -> bool:
            return len(await mesh.records("eta-predictions")) >= len(COURIERS)

        await mesh.until(predicted, "every order has its prediction")
        predictions = {record.key: cause_of(record) for record in await mesh.records("eta-predictions")}
    several = {"order_0": ""}  # two requests lie behind it
    assert predictions == {f"order_{n}": f"request-{n}" for n in COURIERS} | several


async def test_orders_and_couriers_written_in_one_commit_go_each_under_its_own_request(
    database: str, tmp_path: Path
) -> None:
    async with route_mesh.running(database, tmp_path) as mesh:
        await asyncio.gather(
            *(
                asked(
                    f"request-{n}",
                    mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=[route_mesh.order(f"o{n}")])),
                )
                for n in COURIERS
            ),
            *(
                asked(
                    f"courier-{n}",
                    mesh.stub.UpsertCouriers(
                        api.UpsertCouriersRequest(couriers=[route_mesh.courier(f"c{n}")])
                    ),
                )
                for n in COURIERS
            ),
        )
        seen = await mesh.until("orders", lambda seen: len(seen) == 2 * len(COURIERS))
    expected = {f"o{n}": f"request-{n}" for n in COURIERS} | {f"c{n}": f"courier-{n}" for n in COURIERS}
    assert {record.key: cause_of(record) for record in seen} == expected


async def test_an_order_moved_by_a_fix_goes_under_the_request_of_the_fix(
    database: str, tmp_path: Path
) -> None:
    async with route_mesh.running(database, tmp_path) as mesh:
        placed = [
            route_mesh.order(f"o{n}", driver_id=f"c{n}", status=ORDER_STATUS_ASSIGNED) for n in COURIERS
        ]
        await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=placed))
        fixes = [route_mesh.fix(f"c{n}", f"o{n}", TRIP_STAGE_TO_DESTINATION, NOW_S) for n in COURIERS]
        async with mesh.store.transaction() as conn:
            await mesh.bus.publish(
                conn,
                [
                    Message(
                        "gps-events",
                        "one partition",
                        one.SerializeToString(),
                        f"fix-{n}",
                        "t",
                        headers=headers_of(f"fix-{n}"),
                    )
                    for n, one in enumerate(fixes)
                ],
            )
        seen = await mesh.until("orders", lambda seen: len(seen) == 2 * len(COURIERS))
        moved = {r.key: cause_of(r) for r in seen if OrderEvent.FromString(r.value).order.revision > 1}
    assert moved == {f"o{n}": f"fix-{n}" for n in COURIERS}
