"""What eta answers to those who ask about orders, travel times and counters."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eta_rig import START_S, Rig, counted, order, rig, stream, way
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaRequest, PredictEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest
from waymesh.eta.v1.travel_time_pb2 import GetTravelTimesRequest
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.gps.v1.location_pb2 import Location
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_NOT_READ_YET,
    ERROR_REASON_ORDER_UNKNOWN,
    ERROR_REASON_POSITION_UNKNOWN,
    ERROR_REASON_STATUS_CONFLICT,
)
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.mesh import deadline
from services.mesh.breaker import BreakerPolicy
from services.mesh.errors import InvalidArgument, MeshError, OutOfRange, Unavailable, from_status


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


def placed(number: int = 50) -> Order:
    made = order(number)
    made.status, made.driver_id = OrderStatus.ORDER_STATUS_PLACED, ""
    return made


async def ask(stub: Any, **query: Any) -> Any:
    return (await stub.PredictEta(PredictEtaRequest(query=EtaQuery(**query)))).prediction


async def test_an_order_about_to_be_placed_gets_a_typical_courier(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    prediction = await ask(stub, order=placed())
    assert [leg.kind for leg in prediction.legs] == [
        LegKind.LEG_KIND_ASSIGN,
        LegKind.LEG_KIND_TO_PICKUP,
        LegKind.LEG_KIND_WAIT,
        LegKind.LEG_KIND_TO_DESTINATION,
        LegKind.LEG_KIND_HANDOVER,
    ]
    assert prediction.driver_id == ""
    assert 0 < prediction.pickup_eta_minutes < prediction.delivery_eta_minutes


async def test_a_courier_who_would_carry_it_starts_from_where_they_are(mesh: Rig) -> None:
    await mesh.place(order(1))
    stub = mesh.stub(await mesh.start())
    await stream(stub, way(1)[:30])
    await counted(mesh, stub, 30)
    by_fixes = await ask(stub, order=placed(), driver_id="driver_1")
    assert by_fixes.legs[0].kind == LegKind.LEG_KIND_TO_PICKUP
    assert by_fixes.timestamp.seconds == START_S + 29 * 30
    nearer = await ask(
        stub, order=placed(), driver_id="driver_1", courier_location=Location(lat=-23.55, lon=-46.63)
    )
    assert nearer.pickup_eta_minutes < by_fixes.pickup_eta_minutes


async def test_what_the_asker_knows_counts(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    fair = await ask(stub, order=placed())
    snow = await ask(stub, order=placed(), context=DeliveryContext(weather=7, traffic_density=4))
    assert snow.delivery_eta_minutes > fair.delivery_eta_minutes
    assert {factor.name for factor in snow.factors} >= {"weather", "traffic"}


async def test_a_batch_answers_each_query_on_its_own(mesh: Rig) -> None:
    gone = order(2)
    gone.status = OrderStatus.ORDER_STATUS_CANCELLED
    await mesh.place(order(1), gone)
    stub = mesh.stub(await mesh.start())
    response = await stub.BatchPredictEta(
        BatchPredictEtaRequest(
            queries=[
                EtaQuery(order_id="order_1"),
                EtaQuery(order_id="nobody"),
                EtaQuery(order_id="order_2"),
                EtaQuery(order=placed(), driver_id="a courier nobody has seen"),
                EtaQuery(order=placed()),
            ]
        )
    )
    kinds = [result.WhichOneof("result") for result in response.results]
    assert kinds == ["prediction", "error", "error", "error", "prediction"]
    errors: list[MeshError] = [from_status(result.error) for result in response.results[1:4]]
    assert [error.reason for error in errors] == [
        ERROR_REASON_ORDER_UNKNOWN,
        ERROR_REASON_STATUS_CONFLICT,
        ERROR_REASON_POSITION_UNKNOWN,
    ]
    assert not response.HasField("degradation")


async def test_a_thousand_queries_go_through_in_one_call(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    queries = [EtaQuery(order=placed(number)) for number in range(1000)]
    response = await stub.BatchPredictEta(BatchPredictEtaRequest(queries=queries))
    assert [result.prediction.order_id for result in response.results] == [
        query.order.order_id for query in queries
    ]


async def test_while_the_store_is_away_answers_come_from_memory_and_say_so(mesh: Rig) -> None:
    await mesh.place(order(1))
    eta = await mesh.start()
    stub = mesh.stub(eta)
    await stream(stub, way(1)[:30])
    await counted(mesh, stub, 30)
    before = await ask(stub, order_id="order_1")
    # A store that does not answer.
    async with mesh.store.transaction() as conn:
        await conn.execute("LOCK TABLE eta.tracks, eta.couriers IN ACCESS EXCLUSIVE MODE")
        response = await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="order_1")))
    assert response.degradation.source == "eta.remembered_positions"
    assert response.prediction.delivery_eta == before.delivery_eta


async def test_travel_times_grow_with_distance_and_shrink_with_speed(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    here, near, far = (Location(lat=-23.55 + north, lon=-46.63) for north in (0.0, 0.01, 0.05))
    request = GetTravelTimesRequest(origins=[here, near], destinations=[here, near, far])
    times = await stub.GetTravelTimes(request)
    assert len(times.durations_s) == len(times.distances_m) == 6
    assert times.durations_s[0] == times.durations_s[4] == 0
    assert times.durations_s[1] == times.durations_s[3] < times.durations_s[2]
    assert 1112 < times.distances_m[1] < 2000
    request.vehicle_type = 1
    walking = await stub.GetTravelTimes(request)
    assert walking.durations_s[2] > times.durations_s[2]
    assert walking.distances_m == times.distances_m


async def test_a_large_matrix_is_answered_whole(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    places = [Location(lat=-23.55 + 0.0001 * number, lon=-46.63) for number in range(400)]
    times = await stub.GetTravelTimes(GetTravelTimesRequest(origins=places, destinations=places))
    assert len(times.durations_s) == 160_000


async def test_counters_go_on_from_a_cursor(mesh: Rig) -> None:
    await mesh.place(order(1))
    stub = mesh.stub(await mesh.start())
    events = way(1)
    await stream(stub, events[:10])
    first = await counted(mesh, stub, 10)
    await stream(stub, [*events[10:30], events[15]])
    await counted(mesh, stub, 31)
    second = await stub.GetGpsStats(GetGpsStatsRequest(cursor=first.cursor))
    assert (second.fixes, second.duplicates) == (20, 1)
    third = await stub.GetGpsStats(GetGpsStatsRequest(cursor=second.cursor))
    assert (third.fixes, third.duplicates, third.predictions) == (0, 0, 0)
    for cursor in ("nonsense", "gps.1.2"):
        with pytest.raises(InvalidArgument):
            await stub.GetGpsStats(GetGpsStatsRequest(cursor=cursor))
    with pytest.raises(OutOfRange):
        await stub.GetGpsStats(GetGpsStatsRequest(cursor="gps." + ".".join(["ffffffff"] * 10)))


async def test_an_id_that_no_store_can_hold_is_refused_by_field(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    with pytest.raises(InvalidArgument) as refused:
        await stub.BatchPredictEta(
            BatchPredictEtaRequest(
                queries=[EtaQuery(order_id="a\0"), EtaQuery(order=placed(), driver_id="\0")]
            )
        )
    fields = [violation.field for violation in refused.value.violations]
    assert fields == ["queries[0].order_id", "queries[1].driver_id"]


async def test_an_order_is_not_unknown_while_orders_cannot_be_read(mesh: Rig) -> None:
    nowhere: dict[str, Any] = {"kafka_bootstrap_servers": "127.0.0.1:1", "orders_wait_s": 0.1}
    stub = mesh.stub(await mesh.start(**nowhere))
    # In less time than it asks to wait before the call is made again.
    with deadline.budget(1.0), pytest.raises(Unavailable, match="order_1 is not known yet") as told:
        await ask(stub, order_id="order_1")
    assert told.value.reason == ERROR_REASON_NOT_READ_YET
    assert told.value.metadata == {"topic": "orders"}
    assert told.value.retry_after_s
    queries = [EtaQuery(order_id="order_1"), EtaQuery(order=placed())]
    answers = await stub.BatchPredictEta(BatchPredictEtaRequest(queries=queries))
    assert [one.WhichOneof("result") for one in answers.results] == ["error", "prediction"]


async def test_who_asks_for_unknown_orders_while_orders_are_read_shuts_nobody_out(mesh: Rig) -> None:
    nowhere: dict[str, Any] = {"kafka_bootstrap_servers": "127.0.0.1:1", "orders_wait_s": 0.1}
    stub = mesh.stub(await mesh.start(**nowhere))
    for number in range(2 * BreakerPolicy().failures):
        with deadline.budget(1.0), pytest.raises(Unavailable) as told:
            await ask(stub, order_id=f"order_{number}")
        assert told.value.reason == ERROR_REASON_NOT_READ_YET
    assert (await ask(stub, order=placed())).order_id == placed().order_id
