"""What the load sends."""

import random
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.gps.v1.gps_pb2 import GpsEvent, TrafficDensity, TripStage, ZoneType
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.order_pb2 import Order, OrderStatus

_STATUSES = (
    OutcomeStatus.OUTCOME_STATUS_SUCCESS,
    OutcomeStatus.OUTCOME_STATUS_SUCCESS,
    OutcomeStatus.OUTCOME_STATUS_FAILURE,
)


def now() -> Timestamp:
    """The time it is here."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC))
    return stamp


def an_outcome(event_id: str, agent: str) -> OutcomeEvent:
    """Of an agent that fails every now and then."""
    chance = random.Random(event_id)
    return OutcomeEvent(
        event_id=event_id,
        run_id=event_id,
        agent_name=f"chaos-{agent}",
        action_type="probe",
        timestamp=now(),
        status=chance.choice(_STATUSES),
        severity=Severity.SEVERITY_INFO,
        latency_ms=chance.uniform(1, 500),
    )


def a_delivery(outcome_id: str) -> DeliveryOutcome:
    """A delivery that took ten minutes and was foretold as eight."""
    end = now()
    begin = Timestamp(seconds=end.seconds - 600)
    return DeliveryOutcome(
        outcome_id=outcome_id,
        order_id=f"order-of-{outcome_id}",
        predicted_at=begin,
        delivered_at=end,
        p10_minutes=6,
        p50_minutes=8,
        p90_minutes=11,
        actual_minutes=10,
        confidence=0.7,
    )


def an_order(order_id: str, revision: int) -> Order:
    """The same for the same revision, whenever it is made."""
    chance = random.Random(order_id)
    status = OrderStatus.ORDER_STATUS_CANCELLED if revision == 3 else OrderStatus.ORDER_STATUS_PLACED
    return Order(
        order_id=order_id,
        revision=revision,
        status=status,
        pickup=_near(chance),
        dropoff=_near(chance),
        placed_at=Timestamp(seconds=1_724_838_600),
        priority=revision,
    )


def a_fix(courier: int, number: int) -> GpsEvent:
    """Of a courier who rides about and carries nothing."""
    return GpsEvent(
        driver_id=f"chaos-courier-{courier}",
        location=_near(random.Random(number)),
        speed_kph=20,
        trip_stage=TripStage.TRIP_STAGE_IDLE,
        traffic_density=TrafficDensity.TRAFFIC_DENSITY_LIGHT,
        zone_type=ZoneType.ZONE_TYPE_COMMERCIAL,
        timestamp=now(),
    )


def _near(chance: random.Random) -> Location:
    return Location(
        lat=round(41.39 + chance.uniform(-0.03, 0.03), 6), lon=round(2.16 + chance.uniform(-0.03, 0.03), 6)
    )
