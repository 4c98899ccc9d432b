"""What a batch of fixes means: newest positions, progress of orders, what to look at again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import repeat
from typing import Final

from waymesh.gps.v1.gps_pb2 import ANOMALY_FLAG_GPS_SPOOFING, GpsEvent

from services.mesh.arrival import UNKNOWN_US, latest_us


class Stage(IntEnum):
    """What a courier is doing; the numbers are those of waymesh.gps.v1.TripStage."""

    UNSPECIFIED = 0
    IDLE = 1
    TO_PICKUP = 2
    AT_PICKUP = 3
    TO_DESTINATION = 4
    AT_DESTINATION = 5
    DELIVERED = 6


# What makes route look at a courier's stops again.
_HEAVY: Final = 3  # TRAFFIC_DENSITY_HEAVY; SEVERE is 4
FAST_KPH: Final = 90.0

# The year 9999, after which times cannot be stored.
_LAST_US: Final = 253_402_300_799_000_000
_IDLE, _DELIVERED = int(Stage.IDLE), int(Stage.DELIVERED)
_TO_PICKUP, _TO_DESTINATION = int(Stage.TO_PICKUP), int(Stage.TO_DESTINATION)


@dataclass(slots=True)
class Newest:
    """The newest fix of one courier in a batch."""

    at_us: int  # microseconds since the epoch, by the source's clock
    lat: float
    lon: float
    speed_kph: float
    stage: int
    order_id: str


@dataclass(slots=True)
class Progress:
    """How far a courier says to have come with an order: first time of each step, in microseconds."""

    under_way_us: int | None = None
    picked_up_us: int | None = None
    delivered_us: int | None = None


@dataclass(slots=True)
class Folded:
    """A batch, folded."""

    newest: dict[str, Newest] = field(default_factory=dict)  # by driver_id
    progress: dict[tuple[str, str], Progress] = field(default_factory=dict)  # by order_id, driver_id
    congested: set[str] = field(default_factory=set)  # driver_id: heavy traffic or more than 90 km/h


def fold(events: Iterable[GpsEvent], arrived_us: Iterable[int] | None = None) -> Folded:
    """Folds fixes in any order, given when each arrived, if that is known.

    Fixes that are not the device's own say nothing about where it is, and those that break the contract's
    rules or bear a time that had not come when they did nothing at all: eta, whose events they are, says so
    to whoever has to know.
    """
    folded = Folded()
    newest, progress, congested = folded.newest, folded.progress, folded.congested
    for event, arrived in zip(events, repeat(UNKNOWN_US) if arrived_us is None else arrived_us, strict=False):
        if event.anomaly_flags and ANOMALY_FLAG_GPS_SPOOFING in event.anomaly_flags:
            continue
        driver_id, stage, stamp, where = event.driver_id, event.trip_stage, event.timestamp, event.location
        at_us = stamp.seconds * 1_000_000 + stamp.nanos // 1000
        # Comparisons are false for NaN, so that is out too. 0° 0' is where devices are that know no place.
        placed = -90 <= where.lat <= 90 and -180 <= where.lon <= 180 and (where.lat or where.lon)
        in_time = 0 < at_us < _LAST_US and at_us <= latest_us(arrived)
        if not (driver_id and placed and in_time and _IDLE <= stage <= _DELIVERED):
            continue
        if "\0" in driver_id or "\0" in event.order_id:
            continue
        last = newest.get(driver_id)
        if last is None or at_us > last.at_us:
            newest[driver_id] = Newest(at_us, where.lat, where.lon, event.speed_kph, stage, event.order_id)
        if stage == _IDLE:
            continue
        if event.traffic_density >= _HEAVY or event.speed_kph > FAST_KPH:
            congested.add(driver_id)
        key = (event.order_id, driver_id)
        step = progress.get(key)
        if step is None:
            progress[key] = step = Progress()
        if stage == _DELIVERED:
            step.delivered_us = _earlier(step.delivered_us, at_us)
        elif stage >= _TO_DESTINATION:
            step.picked_up_us = _earlier(step.picked_up_us, at_us)
        elif stage >= _TO_PICKUP:
            step.under_way_us = _earlier(step.under_way_us, at_us)
    return folded


def _earlier(known: int | None, at_us: int) -> int:
    return at_us if known is None or at_us < known else known


def freed(folded: Folded, before: dict[str, int]) -> bool:
    """Whether a courier has become free for work: idle now but not in `before`, the stages by driver_id.

    `before` is brought up to date.
    """
    found = False
    for driver_id, fix in folded.newest.items():
        free = fix.stage in (_IDLE, _DELIVERED)
        if free and before.get(driver_id) not in (_IDLE, _DELIVERED):
            found = True
        before[driver_id] = fix.stage
    return found
