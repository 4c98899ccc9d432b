"""Fixes as columns: one array per field, so that a thousand of them cost hardly more than one."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from waymesh.gps.v1.gps_pb2 import AnomalyFlag, GpsEvent

from services.mesh import arrival, holdable
from services.roads.great_circle import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Bit of each flag in a mask; bit n - 1 for AnomalyFlag n.
FLAGS: Final = tuple(number for number in AnomalyFlag.values() if number)
# Times that RFC 3339 can write, 0001-01-01 to 9999-12-31, in seconds since 1970.
MIN_SECONDS: Final = holdable.FIRST_SECOND
MAX_SECONDS: Final = holdable.LAST_SECOND


def bit(flag: int) -> int:
    """The bit of an AnomalyFlag in a mask."""
    return 1 << (flag - 1)


@dataclass(frozen=True, slots=True)
class Fixes:
    """n fixes. `accuracy_m` is NaN and `vehicle` 0 where the source did not say."""

    driver_id: list[str]
    order_id: list[str]
    at_us: Ints
    """Event time, µs since 1970; a time that RFC 3339 cannot write is the smallest int64."""
    lat: Floats
    lon: Floats
    speed_kph: Floats
    stage: Ints
    traffic: Ints
    zone: Ints
    vehicle: Ints
    accuracy_m: Floats
    declared: Ints
    """Mask of the flags that the source set."""
    latest_us: Ints
    """The latest event time that can be, by when the mesh took the fix in."""

    def __len__(self) -> int:
        return len(self.driver_id)

    def take(self, rows: Ints) -> "Fixes":
        """The fixes at these places, in this order."""
        picked = rows.tolist()
        columns: dict[str, Any] = {}
        for field in fields(self):
            column = getattr(self, field.name)
            columns[field.name] = (
                [column[row] for row in picked] if isinstance(column, list) else column[rows]
            )
        return Fixes(**columns)


UNWRITABLE_TIME: Final = int(np.iinfo(np.int64).min)


def columns_of(events: Sequence[GpsEvent], arrived_us: Sequence[int] | None = None) -> Fixes:
    """Read every field of every fix once. Without the times of their arrival any event time can be."""
    count = len(events)
    stamps = [event.timestamp for event in events]
    places = [event.location for event in events]
    seconds = np.array([stamp.seconds for stamp in stamps], dtype=np.int64)
    nanos = np.array([stamp.nanos for stamp in stamps], dtype=np.int64)
    writable = (seconds >= MIN_SECONDS) & (seconds <= MAX_SECONDS) & (nanos >= 0) & (nanos < 1_000_000_000)
    at_us = np.where(writable, np.where(writable, seconds, 0) * 1_000_000 + nanos // 1000, UNWRITABLE_TIME)
    accuracy = np.array([event.accuracy_meters for event in events], dtype=np.float64)
    for row in np.flatnonzero(accuracy == 0).tolist():
        if not events[row].HasField("accuracy_meters"):
            accuracy[row] = np.nan
    declared = np.zeros(count, dtype=np.int64)
    for row, event in enumerate(events):
        if event.anomaly_flags:
            for flag in event.anomaly_flags:
                if flag in FLAGS:
                    declared[row] |= bit(flag)
    return Fixes(
        driver_id=[event.driver_id for event in events],
        order_id=[event.order_id for event in events],
        at_us=at_us,
        lat=np.array([place.lat for place in places], dtype=np.float64),
        lon=np.array([place.lon for place in places], dtype=np.float64),
        speed_kph=np.array([event.speed_kph for event in events], dtype=np.float64),
        stage=np.array([event.trip_stage for event in events], dtype=np.int64),
        traffic=np.array([event.traffic_density for event in events], dtype=np.int64),
        zone=np.array([event.zone_type for event in events], dtype=np.int64),
        vehicle=np.array([event.vehicle_type for event in events], dtype=np.int64),
        accuracy_m=accuracy,
        declared=declared,
        latest_us=_latest_us(arrived_us, count),
    )


def _latest_us(arrived_us: Sequence[int] | None, count: int) -> Ints:
    if arrived_us is None:
        return np.full(count, arrival.UNKNOWN_US, dtype=np.int64)
    return np.array([arrival.latest_us(one) for one in arrived_us], dtype=np.int64)
