"""What is wrong with a fix is told from the courier's own fixes, wherever batches begin and end."""

from typing import Any

import numpy as np
import pytest
from eta_fleet import START_S, book_of, columns, fix, order, rng, table_for
from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.gps.v1.vehicle_pb2 import VehicleType

from services.eta.advance import advance
from services.eta.cleaning import (
    GPS_SPOOFING,
    LOCATION_JUMP,
    LOW_ACCURACY,
    OUT_OF_ORDER,
    SPEED_ANOMALY,
    STALE,
)
from services.eta.couriers import CourierTable
from services.eta.fixes import columns_of
from services.eta.tracks import Track


def flags_of(
    events: list[GpsEvent], sizes: list[int] | None = None, arrived_s: list[float] | None = None
) -> list[int]:
    """Flags of the events, taken in as batches of these sizes (one batch by default). They arrived so many
    seconds after the start, or nobody knows when.
    """
    table, found = CourierTable(), []
    arrived_us = None if arrived_s is None else [round((START_S + one) * 1e6) for one in arrived_s]
    for size in sizes or [len(events)]:
        batch, events = events[:size], events[size:]
        arrived, arrived_us = (None, None) if arrived_us is None else (arrived_us[:size], arrived_us[size:])
        fixes = columns_of(batch, arrived)
        table.load({}, table.missing(fixes.driver_id))
        found += advance(fixes, table, {}, book_of()).cleaned.flags.tolist()
    return found


def test_clean_fixes_have_no_flags() -> None:
    assert flags_of([fix(second, north_m=5 * second) for second in range(30)]) == [0] * 30


def test_only_a_fix_older_than_the_newest_is_out_of_order() -> None:
    flags = flags_of([fix(0), fix(10), fix(10), fix(9), fix(11), fix(10.5)])
    assert [bool(flag & OUT_OF_ORDER) for flag in flags] == [False, False, False, True, False, True]


def test_couriers_do_not_disturb_each_other() -> None:
    flags = flags_of([fix(100), fix(0, driver_id="driver_2"), fix(50), fix(1, driver_id="driver_2")])
    assert [bool(flag & OUT_OF_ORDER) for flag in flags] == [False, False, True, False]


def test_a_fix_far_behind_its_own_source_is_stale_however_old_the_recording() -> None:
    flags = flags_of([fix(-(10**8)), fix(-(10**8) + 600), fix(-(10**8) + 299), fix(-(10**8) + 301)])
    assert [bool(flag & STALE) for flag in flags] == [False, False, True, False]


@pytest.mark.parametrize("ahead_s", [121.0, 3600.0, 251_677_459_199.0])
@pytest.mark.parametrize("sizes", [[5], [1, 1, 1, 1, 1]])
def test_a_clock_that_runs_ahead_is_flagged_and_holds_nothing_up(ahead_s: float, sizes: list[int]) -> None:
    ahead = fix(20, north_m=40)
    ahead.timestamp.seconds = int(min(START_S + 20 + ahead_s, 253_402_300_799))
    events = [fix(0), fix(10, north_m=20), ahead, fix(30, north_m=60), fix(25, north_m=50)]
    flags = flags_of(events, sizes, arrived_s=[0, 10, 20, 30, 31])
    assert flags == [0, 0, OUT_OF_ORDER, 0, OUT_OF_ORDER]


def test_clocks_may_differ_by_two_minutes() -> None:
    assert flags_of([fix(120), fix(125, north_m=20)], arrived_s=[0, 4]) == [0, OUT_OF_ORDER]


def test_a_recording_of_old_is_never_ahead() -> None:
    events = [fix(-(10**8) + second, north_m=5 * second) for second in range(30)]
    assert flags_of(events, arrived_s=[0.0] * 30) == [0] * 30


def test_no_order_is_moved_by_a_clock_that_runs_ahead() -> None:
    tracks: dict[str, Track] = {}
    fixes = columns_of([fix(3600, trip_stage=6), fix(5)], [START_S * 1_000_000] * 2)
    moved = advance(fixes, table_for(fixes), tracks, book_of(order()))
    assert not moved.delivered
    assert [case.as_of_us for case in moved.cases] == [(START_S + 5) * 1_000_000]
    assert tracks["order_1"].last_us == (START_S + 5) * 1_000_000


@pytest.mark.parametrize(
    ("vehicle", "speed_kph", "odd"),
    [
        (0, 200.0, False),
        (0, 200.1, True),
        (VehicleType.VEHICLE_TYPE_WALKING, 45.0, True),
        (VehicleType.VEHICLE_TYPE_BICYCLE, 45.0, False),
        (VehicleType.VEHICLE_TYPE_CAR, 150.0, False),
    ],
)
def test_a_speed_is_judged_by_the_vehicle(vehicle: int, speed_kph: float, odd: bool) -> None:
    changes: dict[str, Any] = {"vehicle_type": vehicle} if vehicle else {}
    [flags] = flags_of([fix(speed_kph=speed_kph, **changes)])
    assert bool(flags & SPEED_ANOMALY) is odd


def test_the_vehicle_is_remembered() -> None:
    walker = fix(0, vehicle_type=VehicleType.VEHICLE_TYPE_WALKING)
    assert flags_of([walker, fix(1, speed_kph=45)], [1, 1])[1] & SPEED_ANOMALY


def test_an_outlier_is_a_jump_and_the_fix_back_home_is_not() -> None:
    flags = flags_of([fix(0), fix(5, north_m=20), fix(10, north_m=9000), fix(15, north_m=60), fix(20)])
    assert [bool(flag & LOCATION_JUMP) for flag in flags] == [False, False, True, False, False]


def test_who_really_moved_jumps_once() -> None:
    flags = flags_of([fix(0), fix(5, north_m=9000), fix(10, north_m=9020), fix(15, north_m=9040)])
    assert [bool(flag & LOCATION_JUMP) for flag in flags] == [False, True, False, False]


def test_a_teleport_and_a_receiver_without_position_are_spoofing() -> None:
    nowhere = fix(20)
    nowhere.location.lat = nowhere.location.lon = 1e-9
    flags = flags_of([fix(0), fix(10, north_m=50_000), nowhere])
    assert [bool(flag & GPS_SPOOFING) for flag in flags] == [False, True, True]


def test_coarse_fixes_and_flags_of_the_source_count() -> None:
    flags = flags_of([fix(0, accuracy_meters=150.0), fix(1, accuracy_meters=0.0), fix(2, anomaly_flags=[3])])
    assert flags == [LOW_ACCURACY, 0, LOCATION_JUMP]


def _disorderly(seed: int) -> list[GpsEvent]:
    """Fixes of five couriers with late ones, outliers, pauses, vehicles named now and then."""
    random, events = rng(seed), []
    clock = np.zeros(5)
    for _ in range(300):
        who = int(random.integers(0, 5))
        clock[who] += random.choice([0, 1, 5, 30, 400])
        late = random.choice([0, 0, 0, 3, 500])
        north_m = 3 * clock[who] + random.choice([0, 0, 0, 0, 5000, 90_000])
        changes: dict[str, Any] = (
            {"vehicle_type": int(random.integers(1, 7))} if random.random() < 0.1 else {}
        )
        speed_kph = float(random.choice([10, 40, 100, 250]))
        event = fix(
            clock[who] - late, north_m=north_m, driver_id=f"driver_{who}", speed_kph=speed_kph, **changes
        )
        events.append(event)
    return events


@pytest.mark.parametrize("seed", range(8))
def test_findings_do_not_depend_on_how_fixes_are_packed(seed: int) -> None:
    events = _disorderly(seed)
    whole = flags_of(events)
    sizes = [int(size) for size in rng(seed + 100).integers(1, 40, size=300)]
    assert flags_of(events, sizes) == whole
    assert flags_of(events, [1] * len(events)) == whole
    assert any(whole)


@pytest.mark.parametrize("seed", range(4))
def test_paces_do_not_depend_on_how_fixes_are_packed(seed: int) -> None:
    events = _disorderly(seed)
    rows = []
    for sizes in ([len(events)], [7] * 50, [1] * len(events)):
        table, left = CourierTable(), events
        for size in sizes:
            batch, left = left[:size], left[size:]
            if batch:
                fixes = columns(*batch)
                table.load({}, table.missing(fixes.driver_id))
                advance(fixes, table, {}, book_of())
        names = [f"driver_{who}" for who in range(5)]
        rows.append(table.get(table.rows_of(names)))
    for name in rows[0].dtype.names or ():
        for other in rows[1:]:
            np.testing.assert_allclose(rows[0][name], other[name], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_out_of_order_is_exactly_what_a_plain_loop_finds(seed: int) -> None:
    events = _disorderly(seed)
    newest: dict[str, float] = {}
    expected = []
    for event in events:
        at = event.timestamp.seconds + event.timestamp.nanos / 1e9
        expected.append(at < newest.get(event.driver_id, float("-inf")))
        newest[event.driver_id] = max(at, newest.get(event.driver_id, float("-inf")))
    assert [bool(flag & OUT_OF_ORDER) for flag in flags_of(events)] == expected


def test_a_table_for_new_couriers_knows_nothing() -> None:
    table = table_for(columns(fix()))
    assert np.isnan(table.get(table.rows_of(["driver_1"]))["usable_lat"]).all()
