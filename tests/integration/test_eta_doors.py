"""Fixes come in by three doors and come out as predictions once their order is known."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, counted, rig
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.eta.v1.eta_service_pb2 import PredictEtaRequest, WatchEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, ReportGpsRequest, StreamGpsRequest
from waymesh.gps.v1.gps_pb2 import AnomalyFlag, GpsEvent, TripStage
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.mesh import json_codec
from services.mesh.errors import AlreadyExists, InvalidArgument, NotFound, OutOfRange
from services.mesh.events import JSON, Message

# What a courier's app has always sent.
FIX = (
    b'{"driver_id":"driver_123","order_id":"order_456","location":{"lat":-23.5505,"lon":-46.6333},'
    b'"speed_kph":25.3,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"business_district",'
    b'"timestamp":"2024-08-28T10:30:00Z","anomaly_flags":[]}'
)


@pytest.fixture
async def mesh(database: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(database, tmp_path) as made:
        yield made


def order(order_id: str = "order_456") -> Order:
    made = Order(order_id=order_id, revision=1, status=OrderStatus.ORDER_STATUS_ASSIGNED)
    made.driver_id = "driver_123"
    made.pickup.lat, made.pickup.lon = -23.56, -46.64
    made.dropoff.lat, made.dropoff.lon = -23.58, -46.66
    made.placed_at.FromJsonString("2024-08-28T10:20:00Z")
    return made


def fix(**changes: Any) -> GpsEvent:
    event = json_codec.decode(GpsEvent, FIX)
    for name, value in changes.items():
        setattr(event, name, value)
    return event


async def send(stub: Any, *batches: StreamGpsRequest) -> list[Any]:
    async def requests() -> AsyncIterator[StreamGpsRequest]:
        for batch in batches:
            yield batch

    return [response async for response in stub.StreamGps(requests())]


def json_fix(
    value: bytes = FIX, event_id: str = "bus-1", key: str = "driver_123", content_type: str = JSON
) -> Message:
    return Message(
        topic="gps-events", key=key, value=value, event_id=event_id, type="gps", content_type=content_type
    )


@pytest.mark.parametrize("door", ["report", "stream", "bus", "bus without content type"])
async def test_a_fix_waits_for_its_order_and_is_then_predicted(mesh: Rig, door: str) -> None:
    eta = await mesh.start()
    stub = mesh.stub(eta)
    if door == "report":
        await stub.ReportGps(ReportGpsRequest(event=fix()))
    elif door == "stream":
        await send(stub, StreamGpsRequest(events=[fix()], cursor="mine"))
    else:
        await mesh.publish(json_fix(content_type=JSON if door == "bus" else ""))

    async def processed() -> bool:
        return (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 1

    await mesh.until(processed, "the fix is processed")
    assert await mesh.published() == []
    await mesh.place(order())

    async def predicted() -> bool:
        return len(await mesh.published()) == 1

    await mesh.until(predicted, "the prediction is published")
    [prediction] = await mesh.published()
    assert prediction.order_id == "order_456"
    assert prediction.driver_id == "driver_123"
    assert prediction.timestamp.ToJsonString() == "2024-08-28T10:30:00Z"
    assert prediction.pickup_eta_minutes > 0
    assert prediction.delivery_eta_minutes > prediction.pickup_eta_minutes
    stats = await stub.GetGpsStats(GetGpsStatsRequest())
    assert (stats.fixes, stats.duplicates, stats.conflicts, stats.predictions) == (1, 0, 0, 1)
    answer = await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="order_456")))
    assert answer.prediction.delivery_eta == prediction.delivery_eta


async def test_a_known_order_is_predicted_with_the_fix(mesh: Rig) -> None:
    await mesh.place(order())
    stub = mesh.stub(await mesh.start())
    await send(stub, StreamGpsRequest(events=[fix()]))

    async def predicted() -> bool:
        return len(await mesh.published()) == 1

    await mesh.until(predicted, "the prediction is published")
    stats = await stub.GetGpsStats(GetGpsStatsRequest())
    assert (stats.fixes, stats.predictions) == (1, 1)


async def test_a_repeated_report_is_a_duplicate_and_other_content_is_refused(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    first = await stub.ReportGps(ReportGpsRequest(event=fix()))
    again = await stub.ReportGps(ReportGpsRequest(event=fix()))
    assert not first.duplicate
    assert again.duplicate
    assert first.event_id == again.event_id
    with pytest.raises(AlreadyExists) as refused:
        await stub.ReportGps(ReportGpsRequest(event=fix(event_id=first.event_id, speed_kph=30)))
    assert refused.value.metadata == {"id": first.event_id}

    async def counted() -> bool:
        stats = await stub.GetGpsStats(GetGpsStatsRequest())
        return (stats.fixes, stats.duplicates, stats.conflicts) == (1, 1, 1)

    await mesh.until(counted, "one fix, one duplicate, one conflict")


async def test_a_report_knows_what_came_by_another_door(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    await mesh.publish(json_fix())

    async def processed() -> bool:
        return (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 1

    await mesh.until(processed, "the fix is processed")
    assert (await stub.ReportGps(ReportGpsRequest(event=fix()))).duplicate


async def test_a_report_that_breaks_a_rule_is_refused_by_field(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    for event, field in [(fix(speed_kph=-1), "event.speed_kph"), (fix(driver_id=""), "event.driver_id")]:
        with pytest.raises(InvalidArgument) as refused:
            await stub.ReportGps(ReportGpsRequest(event=event))
        assert [violation.field for violation in refused.value.violations] == [field]
    assert (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 0


async def test_a_stream_takes_the_good_and_names_the_bad(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    bad = fix()
    bad.location.lat = 91
    first, second = await send(
        stub,
        StreamGpsRequest(events=[fix(), bad, fix(speed_kph=30)], cursor="one"),
        StreamGpsRequest(events=[fix(order_id="")], cursor="two"),
    )
    assert (first.cursor, first.accepted) == ("one", 2)
    assert [(one.index, one.field) for one in first.rejected] == [(1, "location.lat")]
    assert (second.cursor, second.accepted, len(second.rejected)) == ("two", 0, 1)


async def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_rest_goes_on(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    broken = json.dumps({**json.loads(FIX), "speed_kph": -5}).encode()
    await mesh.publish(
        json_fix(b"\xff\xfe not json", "bad-1"),
        json_fix(broken, "bad-2"),
        json_fix(json.dumps({**json.loads(FIX), "new_field": 1}).encode(), "good"),
    )

    async def processed() -> bool:
        return (await stub.GetGpsStats(GetGpsStatsRequest())).fixes == 1

    await mesh.until(processed, "the good fix is processed")
    assert sorted(await mesh.dead()) == sorted([b"\xff\xfe not json", broken])


async def test_the_same_id_with_other_content_is_a_conflict_and_kept(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    await send(
        stub,
        StreamGpsRequest(events=[fix(event_id="a"), fix(event_id="a"), fix(event_id="a", speed_kph=7)]),
    )

    async def processed() -> bool:
        stats = await stub.GetGpsStats(GetGpsStatsRequest())
        return (stats.fixes, stats.duplicates, stats.conflicts) == (1, 1, 1)

    await mesh.until(processed, "one fix, one duplicate, one conflict")
    [letter] = await mesh.dead()
    assert GpsEvent.FromString(letter).speed_kph == 7


async def test_watching_goes_on_where_it_broke_off(mesh: Rig) -> None:
    other = order("order_2")
    other.driver_id = "driver_2"
    await mesh.place(order(), other)
    stub = mesh.stub(await mesh.start())
    watch = stub.WatchEta(WatchEtaRequest())
    start = await anext(aiter(watch))
    assert not start.HasField("prediction")
    await send(stub, StreamGpsRequest(events=[fix(), fix(order_id="order_2", driver_id="driver_2")]))
    seen = [await anext(aiter(watch)) for _ in range(2)]
    watch.cancel()
    assert {one.prediction.order_id for one in seen} == {"order_456", "order_2"}
    again = stub.WatchEta(WatchEtaRequest(cursor=seen[0].cursor))
    await anext(aiter(again))
    assert (await anext(aiter(again))).prediction == seen[1].prediction
    again.cancel()
    one = stub.WatchEta(WatchEtaRequest(cursor=start.cursor, order_ids=["order_2"]))
    await anext(aiter(one))
    assert (await anext(aiter(one))).prediction.order_id == "order_2"
    one.cancel()
    with pytest.raises(OutOfRange):
        await anext(aiter(stub.WatchEta(WatchEtaRequest(cursor="eta-99"))))
    with pytest.raises(InvalidArgument):
        await anext(aiter(stub.WatchEta(WatchEtaRequest(cursor="99"))))


async def test_an_unknown_order_is_not_found(mesh: Rig) -> None:
    stub = mesh.stub(await mesh.start())
    with pytest.raises(NotFound) as missing:
        await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="nobody")))
    assert missing.value.metadata == {"order_id": "nobody"}
    assert "order nobody is not known" in str(missing.value)


@pytest.mark.parametrize("ahead", ["in an hour", "at the end of time"])
async def test_a_clock_that_runs_ahead_does_not_freeze_the_courier(mesh: Rig, ahead: str) -> None:
    eta = await mesh.start()
    stub = mesh.stub(eta)
    await mesh.place(order())
    wrong = fix(event_id="wrong", trip_stage=TripStage.TRIP_STAGE_DELIVERED)
    wrong.timestamp.GetCurrentTime()
    wrong.timestamp.seconds = wrong.timestamp.seconds + 3600 if ahead == "in an hour" else 253_402_300_799
    await stub.ReportGps(ReportGpsRequest(event=wrong))
    await stub.ReportGps(ReportGpsRequest(event=fix()))
    stats = await counted(mesh, stub, 2)
    assert {flag.flag: flag.count for flag in stats.flags if flag.count} == {
        AnomalyFlag.ANOMALY_FLAG_OUT_OF_ORDER: 1
    }

    async def predicted() -> bool:
        return bool(await mesh.published())

    await mesh.until(predicted, "the fix after it is predicted from")
    assert {one.timestamp.ToJsonString() for one in await mesh.published()} == {"2024-08-28T10:30:00Z"}
    answer = (await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="order_456")))).prediction
    assert answer.timestamp.ToJsonString() == "2024-08-28T10:30:00Z"
    assert answer.delivery_eta_minutes > 0


@pytest.mark.parametrize("order_first", [True, False])
async def test_a_stranger_neither_moves_nor_ends_an_order(mesh: Rig, order_first: bool) -> None:
    eta = await mesh.start()
    stub = mesh.stub(eta)
    strange = fix(driver_id="driver_9", trip_stage=TripStage.TRIP_STAGE_DELIVERED)
    if order_first:
        await mesh.place(order())
        await stub.ReportGps(ReportGpsRequest(event=fix()))
        await counted(mesh, stub, 1)
    await stub.ReportGps(ReportGpsRequest(event=strange))
    await counted(mesh, stub, 2 if order_first else 1)
    if not order_first:
        await mesh.place(order())

        async def begun_anew() -> bool:
            return bool((await mesh.row("SELECT driver_id FROM eta.tracks"))["driver_id"] == "driver_123")

        await mesh.until(begun_anew, "what the stranger said is forgotten")
        await stub.ReportGps(ReportGpsRequest(event=fix()))
        await counted(mesh, stub, 2)
    answer = (await stub.PredictEta(PredictEtaRequest(query=EtaQuery(order_id="order_456")))).prediction
    assert answer.driver_id == "driver_123"
    assert answer.delivery_eta_minutes > 0
    assert {one.driver_id for one in await mesh.published()} <= {"driver_123"}
    track = await mesh.row("SELECT driver_id, stage, scored FROM eta.tracks WHERE order_id = 'order_456'")
    assert tuple(track) == ("driver_123", TripStage.TRIP_STAGE_TO_PICKUP, False)
