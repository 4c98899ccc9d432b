"""Times, numbers and texts that the wire carries and nothing behind it can hold."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import struct_pb2
from waymesh.eta.v1.eta_service_pb2 import BatchPredictEtaRequest
from waymesh.eta.v1.gps_stream_pb2 import StreamGpsRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.mesh import holdable
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument
from services.mesh.holdable import (
    FIRST_SECOND,
    LAST_SECOND,
    NUMBER_FAULT,
    PLAIN_FAULT,
    TEXT_FAULT,
    TIME_FAULT,
)
from services.mesh.json_limits import PLAIN_VALUES

Change = Callable[[Any], object]


def batch(*changes: Change) -> BatchPredictEtaRequest:
    """Two queries; the changes are made to the second."""
    request = BatchPredictEtaRequest()
    for _ in range(2):
        request.queries.add().order.order_id = "order"
    for change in changes:
        change(request.queries[1])
    return request


def at(seconds: int, nanos: int = 0) -> Change:
    def change(query: Any) -> None:
        query.order.placed_at.seconds, query.order.placed_at.nanos = seconds, nanos

    return change


@pytest.mark.parametrize("seconds", [FIRST_SECOND, 0, LAST_SECOND])
@pytest.mark.parametrize("nanos", [0, 999_999_999])
def test_times_of_the_years_1_to_9999_are_held(seconds: int, nanos: int) -> None:
    assert holdable.faults(batch(at(seconds, nanos))) == []


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        (at(FIRST_SECOND - 1), "order.placed_at", TIME_FAULT),
        (at(LAST_SECOND + 1), "order.placed_at", TIME_FAULT),
        (at(10**15), "order.placed_at", TIME_FAULT),
        (at(0, -1), "order.placed_at", TIME_FAULT),
        (at(0, 10**9), "order.placed_at", TIME_FAULT),
        (lambda q: setattr(q.as_of, "seconds", -(2**63)), "as_of", TIME_FAULT),
        (lambda q: setattr(q.courier_location, "lat", math.nan), "courier_location.lat", NUMBER_FAULT),
        (lambda q: setattr(q.order, "size", -math.inf), "order.size", NUMBER_FAULT),
        (lambda q: setattr(q, "driver_id", "a\0b"), "driver_id", TEXT_FAULT),
        (lambda q: q.order.items.add(name="\0"), "order.items[0].name", TEXT_FAULT),
        (lambda q: q.order.required_skills.extend(["a", "\0"]), "order.required_skills[1]", TEXT_FAULT),
        (lambda q: q.context.numbers.update(x=math.inf), 'context.numbers["x"]', NUMBER_FAULT),
        (lambda q: q.context.labels.update(x="\0"), 'context.labels["x"]', TEXT_FAULT),
        (lambda q: q.context.labels.update({"\0": "x"}), "context.labels", f"each key {TEXT_FAULT}"),
    ],
)
def test_what_cannot_be_held_is_named(change: Change, path: str, words: str) -> None:
    request = batch(change)
    assert [(fault.field, fault.description) for fault in holdable.faults(request)] == [
        (f"queries[1].{path}", words)
    ]
    with pytest.raises(InvalidArgument) as refused:
        check(request)
    assert [fault.field for fault in refused.value.violations] == [f"queries[1].{path}"]


def test_all_faults_are_told_up_to_fifty() -> None:
    request = batch(at(10**15), lambda query: setattr(query, "driver_id", "\0"))
    assert [fault.field for fault in holdable.faults(request)] == [
        "queries[1].order.placed_at",
        "queries[1].driver_id",
    ]
    for _ in range(100):
        request.queries.add(driver_id="\0")
    assert len(holdable.faults(request)) == 50


def test_numbers_that_only_together_are_too_large_are_held() -> None:
    event = OutcomeEvent(duration_ms=1.7e308, latency_ms=1.7e308)
    assert holdable.faults(event) == []


def test_plain_json_is_looked_into() -> None:
    event = OutcomeEvent()
    event.input.update({"fine": [1, "a", None, {"b": True}]})
    assert holdable.faults(event) == []
    event.input["list"] = [1]
    event.input.fields["list"].list_value.values.append(struct_pb2.Value(number_value=math.nan))
    event.output.update({"a": {"b\0": 1}})
    assert [fault.field for fault in holdable.faults(event)] == [
        'input.fields["list"].list_value.values[1].number_value',
        'output.fields["a"].struct_value.fields',
    ]


@pytest.mark.parametrize(
    "shape", [lambda n: [1] * n, lambda n: [[]] * n, lambda n: dict.fromkeys(map(str, range(n)))]
)
def test_plain_json_of_very_many_values_is_not_looked_at_further(shape: Callable[[int], Any]) -> None:
    event = OutcomeEvent(run_id="\0")
    event.input.update({"all": shape(PLAIN_VALUES - 1)})
    assert [fault.field for fault in holdable.faults(event)] == ["run_id"]
    event.input.update({"one": None, "two": {"many": "\0"}})
    assert [(fault.field, fault.description) for fault in holdable.faults(event)] == [
        ("run_id", TEXT_FAULT),
        ("input", PLAIN_FAULT),
    ]


def test_long_texts_in_plain_json_are_one_value() -> None:
    event = OutcomeEvent()
    event.input.update({"text": "a" * 1_000_000, "more": ["b" * 100_000] * 10})
    assert holdable.faults(event) == []
    event.input.update({"text": "a" * 1_000_000 + "\0"})
    assert [fault.field for fault in holdable.faults(event)] == ['input.fields["text"].string_value']


def test_what_the_contract_leaves_to_the_handler_is_left_to_it() -> None:
    request = StreamGpsRequest(events=[GpsEvent(driver_id="\0", speed_kph=math.nan)], cursor="1")
    assert holdable.faults(request) == []
    request.cursor = "\0"
    assert [fault.field for fault in holdable.faults(request)] == ["cursor"]
