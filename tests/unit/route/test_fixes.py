"""Folding fixes: newest positions, progress, congestion, who became free, who left the way."""

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from waymesh.gps.v1 import gps_pb2
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.gps.v1.location_pb2 import Location

from services.route.deviation import has_left
from services.route.fixes import Stage, fold, freed
from services.route.travel import Place


def fix(driver: str, at_s: float, stage: Stage, **more: object) -> GpsEvent:
    event = GpsEvent(
        driver_id=driver,
        order_id="" if stage is Stage.IDLE else "o",
        location=Location(lat=1.0, lon=at_s / 1000),
        speed_kph=20.0,
        trip_stage=stage.value,  # type: ignore[arg-type]
        traffic_density=gps_pb2.TRAFFIC_DENSITY_LIGHT,
        zone_type=gps_pb2.ZONE_TYPE_MIXED,
        timestamp=Timestamp(seconds=int(at_s), nanos=int(at_s % 1 * 1e9)),
    )
    event.MergeFrom(GpsEvent(**more))  # type: ignore[arg-type]
    return event


@given(st.permutations([fix("d", s, Stage.TO_PICKUP) for s in (1, 2, 3, 4)] + [fix("e", 9, Stage.IDLE)]))
def test_the_newest_fix_counts_in_whatever_order_they_come(events: list[GpsEvent]) -> None:
    folded = fold(events)
    assert folded.newest["d"].at_us == 4_000_000
    assert folded.newest["d"].lon == 0.004
    assert folded.newest["e"].stage == Stage.IDLE


def test_progress_has_the_first_time_of_each_step() -> None:
    folded = fold(
        [
            fix("d", 5, Stage.AT_DESTINATION),
            fix("d", 3, Stage.TO_DESTINATION),
            fix("d", 1, Stage.AT_PICKUP),
            fix("d", 8, Stage.DELIVERED),
            fix("d", 9, Stage.DELIVERED),
        ]
    )
    step = folded.progress["o", "d"]
    assert (step.under_way_us, step.picked_up_us, step.delivered_us) == (1_000_000, 3_000_000, 8_000_000)


@pytest.mark.parametrize(
    ("more", "congested"),
    [
        ({}, False),
        ({"traffic_density": gps_pb2.TRAFFIC_DENSITY_MODERATE}, False),
        ({"traffic_density": gps_pb2.TRAFFIC_DENSITY_HEAVY}, True),
        ({"traffic_density": gps_pb2.TRAFFIC_DENSITY_SEVERE}, True),
        ({"speed_kph": 90.0}, False),
        ({"speed_kph": 90.1}, True),
    ],
)
def test_heavy_traffic_and_high_speed_ask_for_another_look(more: dict[str, object], congested: bool) -> None:
    assert bool(fold([fix("d", 1, Stage.TO_DESTINATION, **more)]).congested) is congested
    assert not fold([fix("d", 1, Stage.IDLE, **more)]).congested


@pytest.mark.parametrize(
    "more",
    [
        {"anomaly_flags": [gps_pb2.ANOMALY_FLAG_GPS_SPOOFING]},
        {"location": Location(lat=math.nan, lon=1)},
        {"location": Location(lat=91, lon=1)},
        {"timestamp": Timestamp(seconds=300_000_000_000)},
        {"order_id": "o\0"},
    ],
)
def test_fixes_that_cannot_be_trusted_change_nothing(more: dict[str, object]) -> None:
    folded = fold([fix("d", 1, Stage.DELIVERED, **more)])
    assert not folded.newest
    assert not folded.progress


@pytest.mark.parametrize(("at_s", "counts"), [(1, True), (220, True), (220.001, False), (3700, False)])
def test_a_fix_whose_time_had_not_come_when_it_arrived_changes_nothing(at_s: float, counts: bool) -> None:
    folded = fold([fix("d", at_s, Stage.DELIVERED)], [100_000_000])
    assert bool(folded.newest) is counts
    assert bool(folded.progress) is counts


def test_a_courier_becomes_free_once() -> None:
    before: dict[str, int] = {}
    assert not freed(fold([fix("d", 1, Stage.TO_DESTINATION)]), before)
    assert freed(fold([fix("d", 2, Stage.DELIVERED)]), before)
    assert not freed(fold([fix("d", 3, Stage.IDLE)]), before)
    assert freed(fold([fix("e", 3, Stage.IDLE)]), before)


@pytest.mark.parametrize(
    ("now", "left"),
    [
        (Place(0.0, 0.02), False),
        # Two sides of a square around the straight line are an ordinary way through a city.
        (Place(0.01, 0.0), False),
        (Place(0.02, 0.02), False),
        (Place(0.06, 0.02), True),
        (Place(0.0, -0.02), True),
    ],
)
def test_a_courier_far_off_the_leg_has_left_it(now: Place, left: bool) -> None:
    assert has_left(Place(0.0, 0.0), Place(0.0, 0.04), now) is left
