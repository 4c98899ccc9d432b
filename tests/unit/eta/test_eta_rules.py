"""The quick look at columns never lets through what the contract forbids, and never refuses what it
allows.
"""

from typing import Any

import protovalidate
import pytest
from eta_fleet import fix
from hypothesis import given
from hypothesis import strategies as st
from waymesh.gps.v1.gps_pb2 import GpsEvent

from services.eta.fixes import columns_of
from services.eta.rules import faults

numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, -0.0, 90.0, 180.0, 2000.0])
)
texts = st.sampled_from(["", "d", "d" * 128, "d" * 129, "é" * 128])


@st.composite
def events(draw: st.DrawFn) -> GpsEvent:
    event = fix()
    for name, values in {
        "driver_id": texts,
        "order_id": texts,
        "speed_kph": numbers,
        "trip_stage": st.integers(0, 8),
        "traffic_density": st.integers(0, 5),
        "zone_type": st.integers(0, 7),
        "heading_degrees": numbers,
        "accuracy_meters": numbers,
        "vehicle_type": st.integers(0, 7),
        "event_id": texts,
    }.items():
        if draw(st.booleans()):
            setattr(event, name, draw(values))
    if draw(st.booleans()):
        event.location.lat = draw(numbers)
    if draw(st.booleans()):
        event.location.lon = draw(numbers)
    event.anomaly_flags.extend(draw(st.lists(st.integers(0, 7), max_size=7)))
    for name in draw(st.sets(st.sampled_from(["location", "timestamp"]))):
        event.ClearField(name)
    return event


@given(st.lists(events(), max_size=5))
def test_columns_judge_as_the_contract_does(batch: list[GpsEvent]) -> None:
    refused = {fault.row for fault in faults(columns_of(batch), batch)}
    assert refused == {row for row, event in enumerate(batch) if protovalidate.collect_violations(event)}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"speed_kph": -1.0}, "speed_kph"),
        ({"speed_kph": float("nan")}, "speed_kph"),
        ({"driver_id": ""}, "driver_id"),
        ({"order_id": ""}, "order_id"),
        ({"trip_stage": 0}, "trip_stage"),
        ({"anomaly_flags": [3, 3]}, "anomaly_flags"),
        ({"vehicle_type": 0}, "vehicle_type"),
        ({"driver_id": "a\0"}, "driver_id"),
        ({"order_id": "\0"}, "order_id"),
        ({"event_id": "a\0b"}, "event_id"),
    ],
)
def test_the_fault_names_the_field(change: dict[str, Any], field: str) -> None:
    event = fix(**change)
    [fault] = faults(columns_of([event]), [event])
    assert fault.field == field
    assert fault.description


def test_a_place_out_of_range_is_named_by_its_path() -> None:
    event = fix()
    event.location.lat = 91
    [fault] = faults(columns_of([event]), [event])
    assert fault.field == "location.lat"


@pytest.mark.parametrize(("seconds", "nanos"), [(10**13, 0), (-(10**13), 0), (0, -1), (5, 2_000_000_000)])
def test_a_time_that_cannot_be_written_is_refused(seconds: int, nanos: int) -> None:
    event = fix()
    event.timestamp.seconds, event.timestamp.nanos = seconds, nanos
    [fault] = faults(columns_of([event]), [event])
    assert fault.field == "timestamp"


def test_an_idle_courier_needs_no_order() -> None:
    event = fix(order_id="", trip_stage=1)
    assert not faults(columns_of([event]), [event])
