"""A broken rule is told with its field and with what would be right, in the dialect's words."""

from typing import Any

import pytest
from google.protobuf.message import Message
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.alert_pb2 import ListAlertsRequest
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegOutcome
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.gps_pb2 import GpsEvent, TripStage

from services.eta.rules import fault_of
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument

STATUSES = "success, failure, partial, timeout, cancelled"
# A value of a newer contract.
UNKNOWN: Any = 9
KNOWN_AND_NONE: Any = [1, 0]
LEG: Any = 2


def told(message: Message) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as refused:
        check(message)
    return {each.field: each.description for each in refused.value.violations}


def test_a_missing_enum_is_told_with_the_values_there_are() -> None:
    found = told(pb.RecordOutcomeRequest(event=OutcomeEvent()))
    assert found["event.status"] == f"is required; one of {STATUSES}"
    assert found["event.severity"] == "is required; one of info, warning, error, critical"
    assert found["event.timestamp"] == "is required"
    assert found["event.event_id"] == "must be at least 1 character"


def test_a_value_that_no_enum_has_is_told_with_those_it_has() -> None:
    found = told(pb.RecordOutcomesRequest(events=[OutcomeEvent(status=UNKNOWN, severity=UNKNOWN)]))
    assert found["events[0].status"] == f"must be one of {STATUSES}"
    assert told(pb.ListOutcomesRequest(statuses=KNOWN_AND_NONE)) == {
        "statuses[1]": f"must be one of {STATUSES}"
    }


def test_a_rule_about_two_fields_names_the_one_that_its_words_begin_with() -> None:
    request = ListAlertsRequest()
    request.start_time.seconds, request.end_time.seconds = 2, 1
    assert told(request) == {"end_time": "must not be before start_time"}
    with pytest.raises(InvalidArgument, match=r"^end_time: must not be before start_time$"):
        check(request)
    batch = pb.RecordOutcomesRequest(events=[OutcomeEvent()])
    batch.events[0].start_time.seconds, batch.events[0].end_time.seconds = 2, 1
    assert told(batch)["events[0].end_time"] == "must not be before start_time"


def test_a_rule_that_begins_with_no_field_is_told_of_the_whole() -> None:
    outcome = DeliveryOutcome(p10_minutes=2, p50_minutes=1, p90_minutes=3)
    assert told(outcome)[""].startswith("p10_minutes, p50_minutes and p90_minutes must")


def test_no_field_is_named_twice() -> None:
    legs = DeliveryOutcome(legs=[LegOutcome(kind=LEG), LegOutcome(kind=LEG)])
    assert told(legs)["legs"] == "must hold at most one of each kind"
    idle = GpsEvent(trip_stage=TripStage.TRIP_STAGE_TO_PICKUP)
    assert told(idle)["order_id"] == "may be empty only when trip_stage is idle"
    assert fault_of(idle) == ("order_id", "may be empty only when trip_stage is idle")
