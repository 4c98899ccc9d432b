"""A courier's fix, in every form and by every door, comes out on eta-predictions as a prediction."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from eta_rig import Rig, rig
from gateway_rig import JSON, KEY, gateway
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.eta.v1.gps_stream_pb2 import GetGpsStatsRequest, StreamGpsRequest
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.gps.v1.vehicle_pb2 import VehicleType
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.mesh.events import PROTOBUF, Message, decode_value

# What a courier's app has always sent, to the byte.
PLAIN = (
    b'{"driver_id":"driver_123","order_id":"order_456","location":{"lat":-23.5505,"lon":-46.6333},'
    b'"speed_kph":25.3,"trip_stage":"to_pickup","traffic_density":"moderate","zone_type":"business_district",'
    b'"timestamp":"2024-08-28T10:30:00Z","anomaly_flags":[]}'
)
FULL = PLAIN[:-1] + (
    b',"event_id":"fix-1","heading_degrees":271.5,"accuracy_meters":4.5,"vehicle_type":"electric_scooter"}'
)
LOCAL = PLAIN.replace(b"2024-08-28T10:30:00Z", b"2024-08-28T07:30:00.250000-03:00")


def event(*, full: bool = False, nanos: int = 0) -> GpsEvent:
    """The same fix as a message, written down without the codec that reads it from JSON."""
    made = GpsEvent(
        driver_id="driver_123",
        order_id="order_456",
        speed_kph=25.3,
        trip_stage=gps_pb2.TRIP_STAGE_TO_PICKUP,
        traffic_density=gps_pb2.TRAFFIC_DENSITY_MODERATE,
        zone_type=gps_pb2.ZONE_TYPE_BUSINESS_DISTRICT,
    )
    made.location.lat, made.location.lon = -23.5505, -46.6333
    made.timestamp.seconds, made.timestamp.nanos = 1_724_841_000, nanos
    if full:
        made.event_id = "fix-1"
        made.heading_degrees, made.accuracy_meters = 271.5, 4.5
        made.vehicle_type = VehicleType.VEHICLE_TYPE_ELECTRIC_SCOOTER
    return made


@dataclass(frozen=True)
class Form:
    """A fix as JSON and as a message, and its own time as it is to come out."""

    json: bytes
    event: GpsEvent
    time: str = "2024-08-28T10:30:00Z"


FORMS = {
    "exact bytes": Form(PLAIN, event()),
    "id and optional fields": Form(FULL, event(full=True)),
    "offset and fraction": Form(LOCAL, event(nanos=250_000_000), "2024-08-28T10:30:00.250Z"),
}


@dataclass
class Mesh:
    """A real eta, what a test needs around it, and a real gateway's address."""

    rig: Rig
    stub: Any
    client: Any


async def by_execute(mesh: Mesh, form: Form) -> None:
    """POST /execute, task report_gps."""
    body = b'{"task":"report_gps","parameters":' + form.json + b"}"
    reply = await mesh.client.ask("POST", "/execute", body, {"Content-Type": JSON, "X-API-Key": KEY})
    assert reply.status == 200, reply.body
    assert (reply.json["status"], reply.json["service"]) == ("success", "eta")
    assert not form.event.event_id or reply.json["result"]["event_id"] == form.event.event_id


async def by_stream(mesh: Mesh, form: Form) -> None:
    """StreamGps."""

    async def requests() -> AsyncIterator[StreamGpsRequest]:
        yield StreamGpsRequest(events=[form.event], cursor="mine")

    [answer] = [answer async for answer in mesh.stub.StreamGps(requests())]
    assert (answer.cursor, answer.accepted, list(answer.rejected)) == ("mine", 1, [])


def by_bus(content_type: str) -> Callable[[Mesh, Form], Any]:
    """The topic gps-events."""

    async def publish(mesh: Mesh, form: Form) -> None:
        value = form.event.SerializeToString() if content_type == PROTOBUF else form.json
        await mesh.rig.publish(
            Message(
                topic="gps-events",
                key=form.event.driver_id,
                value=value,
                event_id="bus-1",
                type="waymesh.gps.v1.GpsEvent",
                content_type=content_type,
            )
        )

    return publish


DOORS = {
    "execute": by_execute,
    "stream": by_stream,
    "bus as JSON": by_bus(JSON),
    "bus without content type": by_bus(""),
    "bus as protobuf": by_bus(PROTOBUF),
}


async def place(mesh: Rig) -> None:
    """The order of the fix becomes known."""
    order = Order(order_id="order_456", revision=1, status=OrderStatus.ORDER_STATUS_ASSIGNED)
    order.driver_id = "driver_123"
    order.pickup.lat, order.pickup.lon = -23.56, -46.64
    order.dropoff.lat, order.dropoff.lon = -23.58, -46.66
    order.placed_at.FromJsonString("2024-08-28T10:20:00Z")
    await mesh.place(order)


@pytest.mark.parametrize("known", ["before", "after"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
async def test_a_fix_becomes_a_prediction_of_its_order_at_its_own_time(
    database: str, tmp_path: Path, door: Callable[[Mesh, Form], Any], form: Form, known: str
) -> None:
    async with rig(database, tmp_path) as made:
        if known == "before":
            await place(made)
        eta = await made.start()
        async with gateway(eta_target=f"127.0.0.1:{eta.server.port}") as before:
            mesh = Mesh(made, made.stub(eta), before.client())
            await door(mesh, form)
            if known == "after":

                async def processed() -> bool:
                    return (await mesh.stub.GetGpsStats(GetGpsStatsRequest())).fixes == 1

                await made.until(processed, "the fix is processed")
                assert await made.records("eta-predictions") == []
                await place(made)

            async def predicted() -> bool:
                return len(await made.records("eta-predictions")) == 1

            await made.until(predicted, "the prediction is published")
            [record] = await made.records("eta-predictions")
            prediction = decode_value(record, EtaPrediction)
            assert record.key == prediction.order_id == "order_456"
            assert prediction.driver_id == "driver_123"
            assert prediction.timestamp.ToJsonString() == form.time
            assert prediction.delivery_eta_minutes > prediction.pickup_eta_minutes > 0
            stats = await mesh.stub.GetGpsStats(GetGpsStatsRequest())
            assert (stats.fixes, stats.duplicates, stats.conflicts, stats.predictions) == (1, 0, 0, 1)
            assert await made.dead() == []
