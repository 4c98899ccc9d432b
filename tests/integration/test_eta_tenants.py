"""Tenants of eta whose orders, couriers and fixes have the same names: each is told of its own alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, counted, order, rig, stream, way
from waymesh.eta.v1.eta_pb2 import EtaPrediction, EtaQuery
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaRequest, PredictEtaRequest, WatchEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, ReportGpsRequest
from waymesh.feedback.v1.feedback_service_pb2 import ListDeliveryOutcomesRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order

from services.eta.identity import event_id_of
from services.mesh import tenancy
from services.mesh.client import ClientFactory
from services.mesh.errors import AlreadyExists, NotFound, PermissionDenied
from services.mesh.events import Message, tenants
from services.mesh.principal import MESH, Principal, acting

TENANTS = ("default", "acme", "bolt")


@asynccontextmanager
async def served(database: str, folder: Path) -> AsyncIterator[tuple[Rig, Any]]:
    async with rig(database, folder) as mesh:
        yield mesh, mesh.stub(await mesh.start())


async def place(mesh: Rig, tenant: str, *orders: Order) -> None:
    """Orders of a tenant, as route publishes them."""
    events = []
    for one in orders:
        event = OrderEvent(order=one)
        tenancy.qualify_message(event, tenant)
        key = event.order.order_id
        events.append(tenants.event("orders", key, event, f"{key}@{one.revision}"))
    await mesh.publish(*events)


async def predict(stub: Any, tenant: str, order_id: str) -> EtaPrediction:
    with acting(Principal(tenant)):
        return (await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id=order_id)))).prediction


async def known(mesh: Rig, stub: Any, tenant: str, order_id: str) -> EtaPrediction:
    """A prediction, once the order has been read."""

    async def there() -> bool:
        try:
            await predict(stub, tenant, order_id)
        except NotFound:
            return False
        return True

    await mesh.until(there, f"{tenant} knows {order_id}")
    return await predict(stub, tenant, order_id)


async def stats(stub: Any, who: Principal, cursor: str = "") -> Any:
    with acting(who):
        return await stub.GetGpsStats(GetGpsStatsRequest(cursor=cursor))


async def test_the_same_fixes_of_several_tenants_are_different_fixes(database: str, tmp_path: Path):
    async with served(database, tmp_path) as (mesh, stub):
        for tenant in TENANTS:
            await place(mesh, tenant, order(1))
            await known(mesh, stub, tenant, "order_1")
        sent = {"default": 40, "acme": 30, "bolt": 20}
        for tenant, fixes in sent.items():
            with acting(Principal(tenant)):
                await stream(stub, way(1, fixes=fixes))
                await counted(mesh, stub, fixes)
        # Sent again, they are each tenant's own duplicates.
        with acting(Principal("acme")):
            await stream(stub, way(1, fixes=30)[:7])
            before = await counted(mesh, stub, 37)
        for tenant, fixes in sent.items():
            found = await stats(stub, Principal(tenant))
            assert (found.fixes, found.duplicates, found.conflicts) == (fixes, 7 * (tenant == "acme"), 0)
            assert found.predictions > 0
        assert (await stats(stub, MESH)).fixes == sum(sent.values())
        # From a cursor on, too.
        with acting(Principal("bolt")):
            await stream(stub, way(1, fixes=20)[:5])
            await counted(mesh, stub, 25)
        later = await stats(stub, Principal("acme"), before.cursor)
        assert (later.fixes, later.duplicates, later.predictions) == (0, 0, 0)

        published = await mesh.records("eta-predictions")
        for tenant in TENANTS:
            own = [record for record in published if tenants.tenant_of(record) == tenant]
            assert {record.key for record in own} == {tenancy.qualify(tenant, "order_1")}
            told = [EtaPrediction.FromString(record.value) for record in own]
            assert {(one.order_id, one.driver_id) for one in told} == {("order_1", "driver_1")}
            assert len(told) == (await stats(stub, Principal(tenant))).predictions
        fixes_seen = await mesh.records("gps-events")
        assert {record.key for record in fixes_seen} == {"driver_1", "acme/driver_1", "bolt/driver_1"}
        assert {GpsEvent.FromString(record.value).driver_id for record in fixes_seen} == {"driver_1"}


async def test_a_reported_fix_has_the_id_of_its_plain_content(database: str, tmp_path: Path):
    [fix] = way(1, fixes=1)
    derived = event_id_of(fix)
    other = GpsEvent()
    other.CopyFrom(fix)
    other.event_id, other.speed_kph = derived, 30
    async with served(database, tmp_path) as (_, stub):
        for tenant in TENANTS:
            with acting(Principal(tenant)):
                for again in (False, True):
                    told = await stub.ReportGps(ReportGpsRequest(event=fix))
                    assert (told.event_id, told.duplicate) == (derived, again)
        with acting(Principal("acme")), pytest.raises(AlreadyExists) as raised:
            await stub.ReportGps(ReportGpsRequest(event=other))
        assert raised.value.metadata == {"id": derived}
        assert "acme" not in raised.value.message
        with acting(Principal("new")):
            assert not (await stub.ReportGps(ReportGpsRequest(event=other))).duplicate
        told = [await stats(stub, Principal(tenant)) for tenant in (*TENANTS, "new")]
        assert [(one.duplicates, one.conflicts) for one in told] == [(1, 0), (1, 1), (1, 0), (0, 0)]
        with acting(MESH), pytest.raises(PermissionDenied):
            await stub.ReportGps(ReportGpsRequest(event=fix))


async def test_anothers_order_is_told_of_as_one_that_nobody_has(database: str, tmp_path: Path):
    async with served(database, tmp_path) as (mesh, stub):
        await place(mesh, "acme", order(1))
        await known(mesh, stub, "acme", "order_1")
        told = []
        for tenant, name in (("bolt", "order_1"), ("default", "order_1"), ("acme", "order_2")):
            with pytest.raises(NotFound) as raised:
                await predict(stub, tenant, name)
            told.append((raised.value.message.replace(name, "…"), raised.value.reason))
            assert raised.value.metadata == {"order_id": name}
        assert len(set(told)) == 1
        for name in ("acme/order_1", "default/acme/order_1"):
            with pytest.raises(NotFound):
                await predict(stub, "default", name)
            with acting(Principal("bolt")):
                request = BatchPredictEtaRequest(queries=[EtaQuery(order_id=name)])
                [result] = (await stub.BatchPredictEta(request)).results
                assert result.error.message == f"order {name} is not known"
        with acting(MESH):
            request = BatchPredictEtaRequest(queries=[EtaQuery(order_id="acme/order_1")])
            [result] = (await stub.BatchPredictEta(request)).results
            assert result.prediction.order_id == "acme/order_1"


async def test_anothers_courier_is_nowhere(database: str, tmp_path: Path):
    """The position of a courier of that name would make a prediction of an order in hand."""
    async with served(database, tmp_path) as (mesh, stub):
        with acting(Principal("acme")):
            await stream(stub, way(1, fixes=5))
            await counted(mesh, stub, 5)
            query = EtaQuery(order=order(9), driver_id="driver_1")
            near = (await stub.PredictEta(PredictEtaRequest(query=query))).prediction
            assert near.driver_id == "driver_1"
        for tenant in ("bolt", "default"):
            with acting(Principal(tenant)):
                [result] = (await stub.BatchPredictEta(BatchPredictEtaRequest(queries=[query]))).results
            assert result.error.message == "no position of the courier is known yet"


async def test_who_watches_sees_predictions_of_his_own_orders(database: str, tmp_path: Path):
    async with served(database, tmp_path) as (mesh, stub):
        for tenant in TENANTS:
            await place(mesh, tenant, order(1))
            await known(mesh, stub, tenant, "order_1")
        told: dict[str, list[EtaPrediction]] = {tenant: [] for tenant in (*TENANTS, "*", "nobody")}
        watching = asyncio.Semaphore(0)

        async def watch(who: Principal, order_ids: list[str]) -> None:
            with acting(who):
                watched = stub.WatchEta(WatchEtaRequest(order_ids=order_ids))
            async for response in watched:
                if not response.HasField("prediction"):
                    watching.release()
                    continue
                told[who.tenant].append(response.prediction)

        watchers = [
            asyncio.create_task(watch(who, named))
            for who, named in (
                (Principal("default"), []), (Principal("acme"), []), (MESH, []),
                (Principal("bolt"), ["order_1"]),
                (Principal("nobody"), ["order_1", "acme/order_1"]),
            )
        ]  # fmt: skip
        for _ in watchers:
            await watching.acquire()
        made = {}
        for tenant in TENANTS:
            with acting(Principal(tenant)):
                await stream(stub, way(1))
                made[tenant] = (await counted(mesh, stub, 40)).predictions

        async def all_seen() -> bool:
            return len(told["*"]) == sum(made.values()) and all(
                len(told[tenant]) == count for tenant, count in made.items()
            )

        await mesh.until(all_seen, "each prediction was told to whom it is for")
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        assert {one.order_id for tenant in TENANTS for one in told[tenant]} == {"order_1"}
        assert {one.order_id for one in told["*"]} == {"order_1", "acme/order_1", "bolt/order_1"}
        assert not told["nobody"]


async def test_what_is_learned_of_a_tenants_deliveries_is_its_own(database: str, tmp_path: Path):
    async with rig(database, tmp_path) as mesh:
        feedback = await mesh.with_feedback()
        eta = await mesh.start(learn_every_s=0.1)
        stub = mesh.stub(eta)
        orders = [order(number) for number in range(3)]
        for one in orders:
            one.merchant.merchant_id, one.context.area = "m", "a"
        before = {tenant: await asked(stub, tenant) for tenant in TENANTS}
        assert len(set(before.values())) == 1
        await place(mesh, "acme", *orders)
        for one in orders:
            await known(mesh, stub, "acme", one.order_id)
        with acting(Principal("acme")):
            await stream(stub, [fix for number in range(3) for fix in way(number, every_s=60)])
        factory = ClientFactory("test", telemetry=mesh.telemetry)
        outcomes = factory.stub(FeedbackServiceStub, f"127.0.0.1:{feedback.server.port}")

        async def stored() -> bool:
            with acting(Principal("acme")):
                return len((await outcomes.ListDeliveryOutcomes(ListDeliveryOutcomesRequest())).outcomes) > 0

        async def learned() -> bool:
            return await asked(stub, "acme") != before["acme"]

        try:
            await mesh.until(stored, "feedback has the tenant's deliveries")
            for tenant in ("bolt", "default"):
                with acting(Principal(tenant)):
                    assert not (await outcomes.ListDeliveryOutcomes(ListDeliveryOutcomesRequest())).outcomes
            with acting(Principal("acme")):
                for one in (await outcomes.ListDeliveryOutcomes(ListDeliveryOutcomesRequest())).outcomes:
                    assert (one.context.merchant_id, one.context.area) == ("m", "a")
                    assert "/" not in one.outcome_id + one.order_id + one.driver_id
            await mesh.until(learned, "the tenant's predictions have learned")
            row = await mesh.row("SELECT state FROM eta.learned")
        finally:
            await factory.close()
        assert '"all","acme"' in row["state"].replace(" ", "")
        assert '"all",""' not in row["state"].replace(" ", "")


async def asked(stub: Any, tenant: str) -> float:
    """What stands for the usual times of a tenant: minutes from placement to pickup at its merchant."""
    one = order(99)
    one.merchant.merchant_id, one.context.area = "m", "a"
    one.ClearField("driver_id")
    one.status = 1
    with acting(Principal(tenant)):
        query = EtaQuery(order=one)
        return (await stub.PredictEta(PredictEtaRequest(query=query))).prediction.base_minutes


@pytest.mark.parametrize("name", ["", "*", "a/b"])
async def test_a_fix_of_nobody_who_can_be_named_is_a_dead_letter(database: str, tmp_path: Path, name: str):
    async with served(database, tmp_path) as (mesh, stub):
        [fix] = way(1, fixes=1)
        headers = {"x-waymesh-tenant": name}
        await mesh.publish(
            Message("gps-events", "driver_1", fix.SerializeToString(), "1", "", headers=headers)
        )

        async def dead() -> bool:
            return bool(await mesh.dead())

        await mesh.until(dead, "the fix is a dead letter")
        [letter] = await mesh.records("dead-letters")
        assert "names no tenant" in letter.headers["dead-reason"]
        assert (await stats(stub, MESH)).fixes == 0
