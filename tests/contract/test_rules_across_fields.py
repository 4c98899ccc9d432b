"""Rules about several fields at once: what breaks them is refused by name, what keeps them passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.agent.v1.agent_service_pb2 import StreamRunRequest
from waymesh.agent.v1.task_pb2 import ExplainEtaRequest, ExplainRouteRequest
from waymesh.eta.v1.eta_pb2 import EtaQuery
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind, LegOutcome
from waymesh.feedback.v1.feedback_service_pb2 import ListDeliveryOutcomesRequest, ListOutcomesRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus, Severity
from waymesh.gps.v1.location_pb2 import Location
from waymesh.order.v1.order_pb2 import Order, OrderStatus
from waymesh.route.v1.route_pb2 import TravelTimeMatrix
from waymesh.route.v1.route_service_pb2 import OptimizeRouteRequest

from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument

FIRST, LATER = Timestamp(seconds=1_000), Timestamp(seconds=1_000, nanos=1)


def order(**more: Any) -> Order:
    return Order(
        order_id="o",
        revision=1,
        status=OrderStatus.ORDER_STATUS_DELIVERED,
        pickup=Location(lat=1, lon=1),
        dropoff=Location(lat=1, lon=2),
        placed_at=FIRST,
        **more,
    )


def delivery(**more: Any) -> DeliveryOutcome:
    return DeliveryOutcome(
        outcome_id="x", order_id="o", **{"predicted_at": FIRST, "delivered_at": FIRST, **more}
    )


def event(**more: Any) -> OutcomeEvent:
    return OutcomeEvent(
        event_id="e",
        run_id="r",
        agent_name="a",
        action_type="t",
        timestamp=FIRST,
        status=OutcomeStatus.OUTCOME_STATUS_SUCCESS,
        severity=Severity.SEVERITY_INFO,
        **more,
    )


WAIT, ASSIGN = LegOutcome(kind=LegKind.LEG_KIND_WAIT), LegOutcome(kind=LegKind.LEG_KIND_ASSIGN)
SPANS: tuple[tuple[Callable[..., Message], str, str], ...] = (
    (order, "picked_up_at", "delivered_at"),
    (delivery, "picked_up_at", "delivered_at"),
    (event, "start_time", "end_time"),
    (ListOutcomesRequest, "start_time", "end_time"),
    (ListDeliveryOutcomesRequest, "start_time", "end_time"),
)
WRONG: tuple[tuple[Message, str], ...] = (
    *(
        (make(**{start: LATER, end: FIRST}), f"{end}: must not be before {start}")
        for make, start, end in SPANS
    ),
    (delivery(p10_minutes=2, p50_minutes=1, p90_minutes=3), "p10_minutes, p50_minutes and p90_minutes must"),
    (delivery(p10_minutes=1, p50_minutes=3, p90_minutes=2), "p10_minutes, p50_minutes and p90_minutes must"),
    (delivery(p10_minutes=-1), "p10_minutes: "),
    (delivery(actual_minutes=-0.1), "actual_minutes: "),
    (delivery(legs=[WAIT, ASSIGN, WAIT]), "legs: must hold at most one of each kind"),
    (ExplainEtaRequest(query=EtaQuery()), "query: must name an order by order_id or describe one in order"),
    (
        ExplainRouteRequest(route=OptimizeRouteRequest()),
        "route: must name a courier by driver_id or give a start",
    ),
    (StreamRunRequest(), "must say what to run, or give the cursor of a run"),
    (TravelTimeMatrix(durations_s=[0] * 82), "durations_s: "),
    (TravelTimeMatrix(durations_s=[0], distances_m=[0] * 82), "distances_m: "),
)
RIGHT: tuple[Message, ...] = (
    *(make(**{start: FIRST, end: later}) for make, start, end in SPANS for later in (FIRST, LATER)),
    *(make(**{end: FIRST}) for make, _, end in SPANS),
    delivery(p50_minutes=1, p90_minutes=1),
    delivery(legs=[WAIT, ASSIGN]),
    TravelTimeMatrix(durations_s=[0] * 81, distances_m=[0] * 81),
)


@pytest.mark.parametrize(("message", "told"), WRONG)
def test_what_contradicts_itself_is_refused_by_name(message: Message, told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check(message)
    assert refused.value.reason_name == "INVALID_FIELD"
    assert refused.value.message.startswith(told)


@pytest.mark.parametrize("message", RIGHT)
def test_what_holds_passes(message: Message) -> None:
    check(message)
