"""Which fixes keep the rules of the contract: a fast look at columns, and the contract's own words for the
rest.

The columns decide only what may go by; whatever looks odd is judged by the mesh's rule for all messages and
by protovalidate, so there is one set of rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import protovalidate
from waymesh.gps.v1.gps_pb2 import GpsEvent, TrafficDensity, TripStage, ZoneType
from waymesh.gps.v1.vehicle_pb2 import VehicleType

from services.eta.fixes import UNWRITABLE_TIME, Bools, Fixes
from services.mesh import holdable
from services.mesh.chain.server.validation import to_field_violation

_ID_LENGTH = 128


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one fix was refused."""

    row: int
    field: str
    description: str


def plain(fixes: Fixes, events: Sequence[GpsEvent]) -> Bools:
    """True where a fix certainly keeps every rule; false where it has to be looked at."""
    # An absent place or time reads as zero: rare enough to be looked at closely.
    good = np.abs(fixes.lat) <= 90
    good &= np.abs(fixes.lon) <= 180
    good &= (fixes.lat != 0) | (fixes.lon != 0)
    good &= (fixes.speed_kph >= 0) & (fixes.speed_kph <= 2000)
    good &= (fixes.at_us != 0) & (fixes.at_us != UNWRITABLE_TIME)
    good &= (fixes.stage >= TripStage.TRIP_STAGE_IDLE) & (fixes.stage <= TripStage.TRIP_STAGE_DELIVERED)
    good &= (fixes.traffic >= TrafficDensity.TRAFFIC_DENSITY_LIGHT) & (
        fixes.traffic <= TrafficDensity.TRAFFIC_DENSITY_SEVERE
    )
    good &= (fixes.zone >= ZoneType.ZONE_TYPE_RESIDENTIAL) & (fixes.zone <= ZoneType.ZONE_TYPE_CITY_CENTER)
    good &= (fixes.vehicle >= 0) & (fixes.vehicle <= VehicleType.VEHICLE_TYPE_CAR)
    good &= np.isnan(fixes.accuracy_m) | ((fixes.accuracy_m >= 0) & (fixes.accuracy_m <= 100_000))
    good &= fixes.declared == 0
    good &= np.array(
        [
            0 < len(driver) <= _ID_LENGTH and len(order) <= _ID_LENGTH and "\0" not in driver + order
            for driver, order in zip(fixes.driver_id, fixes.order_id, strict=True)
        ],
        dtype=np.bool_,
    )
    good &= np.array([bool(order) for order in fixes.order_id], dtype=np.bool_) | (
        fixes.stage == TripStage.TRIP_STAGE_IDLE
    )
    # Presence is asked only where the value is the default, which is what an absent field reads as.
    good &= np.array([0 <= event.heading_degrees <= 360 for event in events], dtype=np.bool_)
    good &= np.array([not event.anomaly_flags for event in events], dtype=np.bool_)
    ids = [event.event_id for event in events]
    lengths = np.array([len(one) for one in ids], dtype=np.int64)
    good &= (lengths <= _ID_LENGTH) & np.array(["\0" not in one for one in ids], dtype=np.bool_)
    for row in np.flatnonzero(good & (fixes.vehicle == 0)).tolist():
        good[row] = not events[row].HasField("vehicle_type")
    for row in np.flatnonzero(good & (lengths == 0)).tolist():
        good[row] = not events[row].HasField("event_id")
    return good


def faults(fixes: Fixes, events: Sequence[GpsEvent]) -> list[Fault]:
    """The first fault of each fix that breaks a rule, by place; the field as a path from the fix."""
    found = []
    for row in np.flatnonzero(~plain(fixes, events)).tolist():
        fault = fault_of(events[row])
        if fault is not None:
            found.append(Fault(row, *fault))
    return found


def fault_of(event: GpsEvent) -> tuple[str, str] | None:
    """Field and description of the first rule a fix breaks, or None."""
    for fault in holdable.faults(event):
        return fault.field, fault.description
    for violation in protovalidate.collect_violations(event):
        told = to_field_violation(violation, event)
        return told.field, told.description
    return None
