"""What was stored before tenants had ids of their own stays the default tenant's, slashes and all."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from eta_rig import rig
from eta_rig import way as fixes_of
from waymesh.eta.v1.eta_pb2 import EtaPrediction, EtaQuery
from waymesh.eta.v1.eta_service_pb2 import PredictEtaRequest, WatchEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, ReportGpsRequest
from waymesh.route.v1 import route_service_pb2 as api

from services.eta.identity import hash_contents
from services.eta.server import MIGRATIONS as OF_ETA
from services.mesh.errors import NotFound
from services.mesh.principal import Principal, acting
from services.mesh.store import Store
from services.route.server import MIGRATIONS as OF_ROUTE
from services.route.translate import digest
from tests.integration.route_mesh import courier, order, running

# What reads as tenant `acme`'s order `o`, if nobody saw to it.
SLASHED = "acme/o"


def first_of(migrations: Path, folder: Path) -> Path:
    """A folder with the first file alone."""
    first = folder / "first"
    first.mkdir()
    shutil.copy(next(migrations.glob("0001_*.sql")), first)
    return first


async def test_routes_orders_and_couriers(database: str, tmp_path: Path):
    kept, carrier = order(SLASHED, driver_id="acme/c", status=2), courier("acme/c")
    before = await Store.open(database, schema="route", migrations=first_of(OF_ROUTE, tmp_path))
    bodies = [one.SerializeToString(deterministic=True) for one in (kept, carrier)]
    async with before.transaction() as conn:
        await conn.execute(
            "INSERT INTO orders (order_id, revision, status, driver_id, priority, placed_at, body) "
            "VALUES ($1, 1, 2, $2, 0, $3, $4)", SLASHED, "acme/c", datetime.now(UTC), bodies[0],
        )  # fmt: skip
        await conn.execute(
            "INSERT INTO couriers (driver_id, revision, status, body) VALUES ($1, 1, 2, $2)",
            "acme/c",
            bodies[1],
        )
        for kind, name, body in (("o", SLASHED, bodies[0]), ("c", "acme/c", bodies[1])):
            await conn.execute(
                "INSERT INTO revisions (kind, id, revision, digest) VALUES ($1::text::\"char\", $2, 1, $3)",
                kind, name, digest(body),
            )  # fmt: skip
    await before.close()
    async with running(database, tmp_path / "data") as mesh:
        assert (await mesh.stub.GetOrder(api.GetOrderRequest(order_id=SLASHED))).order == kept
        assert (await mesh.stub.UpsertOrders(api.UpsertOrdersRequest(orders=[kept]))).duplicate
        assert (await mesh.stub.UpsertCouriers(api.UpsertCouriersRequest(couriers=[carrier]))).duplicate
        planned = await mesh.stub.OptimizeRoute(api.OptimizeRouteRequest(driver_id="acme/c"))
        assert {stop.order_id for stop in planned.plan.stops} == {SLASHED}
        with acting(Principal("acme")), pytest.raises(NotFound):
            await mesh.stub.GetOrder(api.GetOrderRequest(order_id="o"))


async def test_etas_fixes_predictions_and_what_it_has_learned(database: str, tmp_path: Path):
    [fix] = fixes_of(1, fixes=1)
    fix.event_id = "acme/f"
    told = EtaPrediction(order_id=SLASHED, driver_id="c")
    learned = {
        "means": [["prep", "merchant", "a/m", 3, 9.0], ["prep", "all", "", 5, 5.0]],
        "recent": [SLASHED, "p"],
    }
    before = await Store.open(database, schema="eta", migrations=first_of(OF_ETA, tmp_path))
    async with before.transaction() as conn:
        content = hash_contents([fix]).astype("<u8").tobytes()
        await conn.execute("INSERT INTO gps_reports (event_id, content) VALUES ($1, $2)", "acme/f", content)
        await conn.execute(
            "INSERT INTO predictions (seq, order_id, prediction) VALUES (1, $1, $2)",
            SLASHED,
            told.SerializeToString(),
        )
        await conn.execute("UPDATE prediction_head SET seq = 1")
        await conn.execute(
            "INSERT INTO learned (page_token, state) VALUES ('', $1)",
            json.dumps({"revision": 1, "travel": [[0.0] * 4] * 8, "spread": {}, **learned}),
        )
        await conn.execute(
            "INSERT INTO gps_partitions (partition, token, fixes, flags) "
            "VALUES (3, gen_random_uuid(), 7, '{0,0,0,0,0,0}')"
        )
    await before.close()
    after = await Store.open(database, schema="eta", migrations=OF_ETA)
    state = json.loads(await after.pool.fetchval("SELECT state FROM learned"))
    assert state["means"] == [["prep", "merchant", "default/a/m", 3, 9.0], ["prep", "all", "", 5, 5.0]]
    assert state["recent"] == [f"default/{SLASHED}", "p"]
    await after.pool.execute("DELETE FROM learned")
    await after.close()
    async with rig(database, tmp_path) as mesh:
        stub = mesh.stub(await mesh.start())
        assert (await stub.ReportGps(ReportGpsRequest(event=fix))).duplicate
        assert (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 7
        watched = stub.WatchEta(WatchEtaRequest(cursor="eta-0"))
        responses = aiter(watched)
        await anext(responses)
        assert (await anext(responses)).prediction == told
        with acting(Principal("acme")):
            assert (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 0
            with pytest.raises(NotFound):
                await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="o")))
        watched.cancel()
