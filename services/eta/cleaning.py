"""What is wrong with each fix, told from the courier's own fixes before it.

Every finding depends only on the order of a courier's fixes, not on where a batch begins or ends. Repeats
must have been taken out before.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from waymesh.gps.v1.gps_pb2 import AnomalyFlag

from services.eta.couriers import NEVER
from services.eta.fixes import Bools, Fixes, Ints, bit
from services.roads.great_circle import Floats, great_circle_m

# Highest believable speed by VehicleType, km/h; index 0: not known. Sprint speeds on foot and on a pedal
# bicycle, twice the usual legal limit for scooters, and 200 for what has a number plate.
MAX_SPEED_KPH: Final = np.array([200.0, 30.0, 80.0, 60.0, 140.0, 200.0, 200.0])
# A jump is this much faster than the vehicle: positions are noisy where times are close.
JUMP_FACTOR: Final = 1.5
JUMP_MIN_M: Final = 150.0
# No vehicle on the ground or civil aircraft: somebody makes up positions.
TELEPORT_KPH: Final = 1200.0
TELEPORT_MIN_M: Final = 5000.0
STALE_AFTER_US: Final = 5 * 60 * 1_000_000
LOW_ACCURACY_M: Final = 100.0
# Receivers without a position report 0, 0, in the Gulf of Guinea.
NULL_ISLAND_DEG: Final = 1e-6

OUT_OF_ORDER: Final = bit(AnomalyFlag.ANOMALY_FLAG_OUT_OF_ORDER)
SPEED_ANOMALY: Final = bit(AnomalyFlag.ANOMALY_FLAG_SPEED_ANOMALY)
LOCATION_JUMP: Final = bit(AnomalyFlag.ANOMALY_FLAG_LOCATION_JUMP)
STALE: Final = bit(AnomalyFlag.ANOMALY_FLAG_STALE)
LOW_ACCURACY: Final = bit(AnomalyFlag.ANOMALY_FLAG_LOW_ACCURACY)
GPS_SPOOFING: Final = bit(AnomalyFlag.ANOMALY_FLAG_GPS_SPOOFING)

# Fixes with one of these do not tell where the courier is.
MISLEADING: Final = OUT_OF_ORDER | STALE | LOCATION_JUMP | GPS_SPOOFING


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Findings on n fixes, in their own order."""

    flags: Ints
    """Mask of the flags declared by the source and found here."""
    in_order: Bools
    """No later fix of the courier came before, and its time had come when it did."""
    vehicle: Ints
    """VehicleType, the last one told where a fix does not say; 0 if never told."""
    gap_s: Floats
    """Seconds since the courier's fix before it; NaN for its first and for fixes out of order."""
    hop_m: Floats
    """Metres between the two; NaN as well where that is too far for the time."""
    odd: Bools
    """That it is."""

    @property
    def usable(self) -> Bools:
        """True where the fix shows where the courier is."""
        return np.asarray((self.flags & MISLEADING) == 0)


@dataclass(frozen=True, slots=True)
class Segments:
    """The rows of each courier side by side, in the order in which they came."""

    order: Ints
    """Places of the fixes, courier by courier."""
    courier: Ints
    """Number of the courier of each place in `order`, ascending."""

    @classmethod
    def of(cls, courier: Ints) -> "Segments":
        order = np.argsort(courier, kind="stable")
        return cls(order, courier[order])


def clean(fixes: Fixes, courier: Ints, known: NDArray[np.void]) -> Cleaned:
    """Judge fixes, given by `courier` (0 … len(known) - 1) whose row of `known` (COURIER) precedes them."""
    segments = Segments.of(courier)
    # A clock that runs ahead must not make what comes after it look old.
    ahead = fixes.at_us > fixes.latest_us
    newest = _newest_before(np.where(ahead, NEVER, fixes.at_us), segments, known["last_us"])
    in_order = ~ahead & (fixes.at_us >= newest)
    flags = fixes.declared.copy()
    flags[~in_order] |= OUT_OF_ORDER
    # Where newest is NEVER no fix is behind it, and the lag, which would overflow, is not looked at.
    behind = fixes.at_us < newest
    lag = np.where(behind, newest - np.where(behind, fixes.at_us, newest), 0)
    flags[lag > STALE_AFTER_US] |= STALE

    vehicle = _last_told(fixes.vehicle, segments, known["vehicle"])
    limit_kph = MAX_SPEED_KPH[vehicle]
    flags[fixes.speed_kph > limit_kph] |= SPEED_ANOMALY
    with np.errstate(invalid="ignore"):
        flags[fixes.accuracy_m > LOW_ACCURACY_M] |= LOW_ACCURACY
    nowhere = (np.abs(fixes.lat) < NULL_ISLAND_DEG) & (np.abs(fixes.lon) < NULL_ISLAND_DEG)
    flags[nowhere] |= GPS_SPOOFING

    hops = _hops(fixes, segments, in_order, known, limit_kph)
    flags[hops.jump] |= LOCATION_JUMP
    flags[hops.teleport] |= GPS_SPOOFING
    return Cleaned(
        flags=flags,
        in_order=in_order,
        vehicle=vehicle,
        gap_s=hops.time_s,
        hop_m=np.where(hops.odd, np.nan, hops.way_m),
        odd=hops.odd,
    )


def _newest_before(at_us: Ints, segments: Segments, last_us: Ints) -> Ints:
    """Newest time of the courier before each fix: a running maximum that begins anew with each courier."""
    count = len(last_us)
    # Each courier's known newest time leads its segment.
    courier = np.concatenate([np.arange(count), segments.courier])
    times = np.concatenate([last_us, at_us[segments.order]])
    together = np.argsort(courier, kind="stable")
    distinct, ranks = np.unique(times, return_inverse=True)
    # Ranks keep the lift of later couriers small, whatever the times are.
    lift = courier[together] * (len(times) + 1)
    highest = np.maximum.accumulate(ranks[together] + lift) - lift
    newest_with = distinct[highest]
    before = np.empty(len(together), dtype=np.int64)
    before[1:] = newest_with[:-1]
    result = np.empty(len(at_us), dtype=np.int64)
    is_fix = together >= count
    result[segments.order[together[is_fix] - count]] = before[is_fix]
    return result


def _last_told(values: Ints, segments: Segments, known: Ints) -> Ints:
    """Each fix's value, or where that is 0 the courier's last one before it."""
    count = len(known)
    together = np.argsort(np.concatenate([np.arange(count), segments.courier]), kind="stable")
    told = np.concatenate([known, values[segments.order]])[together]
    is_fix = together >= count
    from_place = np.maximum.accumulate(np.where((told > 0) | ~is_fix, np.arange(len(told)), 0))
    result = np.empty(len(values), dtype=np.int64)
    result[segments.order[together[is_fix] - count]] = told[from_place][is_fix]
    return result


@dataclass(frozen=True, slots=True)
class _Hops:
    jump: Bools
    teleport: Bools
    odd: Bools
    way_m: Floats
    time_s: Floats


def _hops(
    fixes: Fixes, segments: Segments, in_order: Bools, known: NDArray[np.void], limit_kph: Floats
) -> _Hops:
    """Ways between neighbours in time. Fixes out of order get none.

    A fix that is too far from its neighbour is a jump, unless the neighbour was the one that jumped away
    and this one is back where the courier was.
    """
    count, total = len(known), len(fixes)
    rows = segments.order[in_order[segments.order]]
    everyone = np.arange(count)
    codes = np.concatenate([everyone, everyone, segments.courier[in_order[segments.order]]])
    at_us = np.concatenate([known["prev_us"], known["last_us"], fixes.at_us[rows]])
    lat = np.concatenate([known["prev_lat"], known["last_lat"], fixes.lat[rows]])
    lon = np.concatenate([known["prev_lon"], known["last_lon"], fixes.lon[rows]])
    limit = np.concatenate([np.full(2 * count, np.nan), limit_kph[rows]])
    odd_known = np.concatenate([np.zeros(count), known["last_odd"], np.zeros(len(rows))]) > 0
    # The two known fixes of a courier lead its segment, so neighbours are always one and two places back.
    together = np.argsort(codes, kind="stable")
    at_us, lat, lon, limit = at_us[together], lat[together], lon[together], limit[together]

    way_1, time_1 = _back(at_us, lat, lon, 1)
    way_2, time_2 = _back(at_us, lat, lon, 2)
    odd = odd_known[together] | _impossible(way_1, time_1, limit * JUMP_FACTOR)
    odd_before = np.concatenate([[False], odd[:-1]])
    with np.errstate(invalid="ignore"):
        back_again = odd_before & ~_impossible(way_2, time_2, limit * JUMP_FACTOR) & ~np.isnan(way_2)
        teleport = odd & ~back_again & (way_1 > TELEPORT_MIN_M) & (way_1 > time_1 * TELEPORT_KPH / 3.6)

    is_fix = together >= 2 * count
    places = rows[together[is_fix] - 2 * count]
    found = _Hops(
        jump=np.zeros(total, dtype=np.bool_),
        teleport=np.zeros(total, dtype=np.bool_),
        odd=np.zeros(total, dtype=np.bool_),
        way_m=np.full(total, np.nan),
        time_s=np.full(total, np.nan),
    )
    found.jump[places] = (odd & ~back_again)[is_fix]
    found.teleport[places] = teleport[is_fix]
    found.odd[places] = odd[is_fix]
    found.way_m[places] = way_1[is_fix]
    found.time_s[places] = time_1[is_fix]
    return found


def _back(at_us: Ints, lat: Floats, lon: Floats, places: int) -> tuple[Floats, Floats]:
    """Way (m) and time (s) from the row so many places before; NaN at the start and from fixes never made."""
    way = np.full(len(at_us), np.nan)
    time = np.full(len(at_us), np.nan)
    if len(at_us) > places:
        way[places:] = great_circle_m(lat[:-places], lon[:-places], lat[places:], lon[places:])
        earlier = np.where(at_us[:-places] == NEVER, at_us[places:], at_us[:-places])
        time[places:] = (at_us[places:] - earlier) / 1e6
        time[np.isnan(way)] = np.nan
    return way, time


def _impossible(way_m: Floats, time_s: Floats, limit_kph: Floats) -> Bools:
    with np.errstate(invalid="ignore"):
        return (way_m > JUMP_MIN_M) & (way_m > time_s * limit_kph / 3.6)
