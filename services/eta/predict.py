"""The estimate: way over speed plus the time spent standing, for many orders at once.

Way is the great circle times a learned detour; speed is the vehicle's, drawn towards what the courier did
of late. Each circumstance is added one at a time, and the minutes it adds are its factor, so factors always
add up.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.eta import priors, spread
from services.eta.couriers import NEVER
from services.eta.fixes import Ints
from services.eta.learning import Learned
from services.eta.progress import overdue
from services.roads.great_circle import Floats, great_circle_m

Table = NDArray[np.float64]


class Phase(IntEnum):
    """How far an order has come, as far as its times go."""

    UNASSIGNED = 0
    TO_PICKUP = 1
    AT_PICKUP = 2
    TO_DESTINATION = 3
    AT_DESTINATION = 4
    DONE = 5


ASSIGN, APPROACH, WAIT, CARRY, HANDOVER = range(5)
LEGS: Final = 5
FACTORS: Final = (
    "traffic",
    "weather",
    "courier_pace",
    "merchant",
    "batch",
    "pickup_correction",
    "learned_correction",
)
# What was learned of pickups; and of deliveries, as far as the pickup does not bring it about.
PICKUP_CORRECTION: Final = FACTORS.index("pickup_correction")
CORRECTION: Final = FACTORS.index("learned_correction")
# Named like a factor; it is added when a prediction is held to the one before, see steady.py.
STEADINESS: Final = "steadiness"

# Seconds of travel after which what the courier did counts as much as what its vehicle usually does.
_PACE_HALF_S: Final = 300.0
# After the usual time is over, what is left of an errand is this share of it.
_LEFT_OVER: Final = 0.3
_US_PER_MIN: Final = 60e6
_CONFIDENCE_MIN: Final = 5.0


@dataclass(frozen=True, slots=True)
class Trips:
    """n orders to be predicted. Times are µs since 1970 and NEVER where not known; places are NaN where
    not known.
    """

    phase: Ints
    as_of_us: Ints
    here_lat: Floats
    here_lon: Floats
    pickup_lat: Floats
    pickup_lon: Floats
    dropoff_lat: Floats
    dropoff_lon: Floats
    placed_us: Ints
    ready_us: Ints
    picked_up_us: Ints
    since_us: Ints
    """When the phase began."""
    run_m: Floats
    run_s: Floats
    """The courier's way (m) and time (s) of late."""
    vehicle: Ints
    traffic: Ints
    weather: Ints
    batch_size: Ints
    assign_min: Floats
    prep_min: Floats
    dwell_min: Floats
    handover_min: Floats
    """What is usual for the merchant and the area, minutes."""
    tenant: list[str]
    """Whose each order is."""

    def __len__(self) -> int:
        return len(self.phase)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What comes out for n orders; minutes from `as_of_us`."""

    legs_min: Table
    """n × 5, in the order of LegKind, as estimated: before what was learned of errors."""
    legs_m: Table
    pickup_table: Table
    """Distribution of the minutes to pickup, n × 40 (spread.LEVELS)."""
    delivery_table: Table
    pickup_min: Floats
    delivery_min: Floats
    """Medians."""
    base_min: Floats
    factors_min: Table
    """n × 7, in the order of FACTORS; base_min plus their sum is delivery_min."""


def estimate(trips: Trips, learned: Learned) -> Estimate:
    """Predict; every row on its own."""
    usual_mps = learned.speed_mps()[trips.vehicle]
    ways = _ways(trips, learned)
    typical = _Standing.typical(learned, trips.tenant)
    own = _Standing(trips.assign_min, trips.prep_min, trips.dwell_min, trips.handover_min)
    traffic = 1 + (priors.TRAFFIC[trips.traffic] - 1) * priors.TRAFFIC_SHARE[trips.vehicle]
    weather = priors.WEATHER[trips.weather]

    slowed_mps = usual_mps / traffic / weather
    pace_mps = (trips.run_m + slowed_mps * _PACE_HALF_S) / (trips.run_s + _PACE_HALF_S)
    # A courier who stands still has not stopped for good.
    pace_mps = np.maximum(pace_mps, 0.15 * usual_mps)

    steps = [
        _legs(trips, ways, usual_mps, typical),
        _legs(trips, ways, usual_mps / traffic, typical),
        _legs(trips, ways, slowed_mps, typical),
        _legs(trips, ways, pace_mps, typical),
        _legs(trips, ways, pace_mps, own),
    ]
    last = steps[-1].copy()
    carried = (trips.phase < Phase.AT_DESTINATION)[:, None]
    last[:, CARRY : CARRY + 1] += np.where(
        carried, priors.BATCH_STOP_MIN * (np.maximum(trips.batch_size, 1) - 1)[:, None], 0.0
    )
    steps.append(last)

    totals = np.stack([step.sum(axis=1) for step in steps])
    raw_delivery = totals[-1]
    raw_pickup = last[:, : WAIT + 1].sum(axis=1)
    delivery_table = learned.spread.minutes(_groups(trips), raw_delivery)
    pickup_table = learned.spread.minutes(np.full(len(trips), spread.PICKUP), raw_pickup)
    done = (trips.phase == Phase.DONE)[:, None]
    delivery_table = np.where(done, 0.0, delivery_table)
    picked = (trips.phase >= Phase.TO_DESTINATION)[:, None]
    # No order is handed over before it is picked up, so at each level the pickup is the earlier.
    pickup_table = np.where(picked, 0.0, np.minimum(pickup_table, delivery_table))

    delivery_min = spread.quantile(delivery_table, 0.5)
    pickup_min = spread.quantile(pickup_table, 0.5)
    factors = np.diff(totals, axis=0).T
    of_pickup = pickup_min - raw_pickup
    learned_min = np.stack([of_pickup, delivery_min - raw_delivery - of_pickup], axis=1)
    return Estimate(
        legs_min=last,
        legs_m=ways,
        pickup_table=pickup_table,
        delivery_table=delivery_table,
        pickup_min=pickup_min,
        delivery_min=delivery_min,
        base_min=totals[0],
        factors_min=np.concatenate([factors, learned_min], axis=1),
    )


def confidence(table: Table, shown_min: Floats) -> Floats:
    """Chance that the actual minutes fall within 5 of the shown ones."""
    late = spread.chance_by(table, shown_min + _CONFIDENCE_MIN)
    early = spread.chance_by(table, shown_min - _CONFIDENCE_MIN)
    return np.asarray(np.clip(late - np.where(shown_min > _CONFIDENCE_MIN, early, 0.0), 0.0, 1.0))


def promise(table: Table, earliest_min: Floats, latest_min: Floats) -> Floats:
    """Chance of a handover in the promised window, given in minutes from the prediction; NaN: that end
    is open.
    """
    with np.errstate(invalid="ignore"):
        in_time = np.where(np.isnan(latest_min), 1.0, spread.chance_by(table, np.nan_to_num(latest_min)))
        in_time = np.where(latest_min < 0, 0.0, in_time)
        too_early = np.where(
            np.isnan(earliest_min) | (earliest_min <= 0),
            0.0,
            spread.chance_by(table, np.nan_to_num(earliest_min)),
        )
    return np.asarray(np.clip(in_time - too_early, 0.0, 1.0))


@dataclass(frozen=True, slots=True)
class _Standing:
    """Minutes that pass without way."""

    assign: Floats
    prep: Floats
    dwell: Floats
    handover: Floats

    @classmethod
    def typical(cls, learned: Learned, tenant: list[str]) -> "_Standing":
        return cls(*(_typical(learned, what, tenant) for what in ("assign", "prep", "dwell", "handover")))


def _typical(learned: Learned, what: str, tenant: list[str]) -> Floats:
    """What is usual at each tenant as a whole."""
    usual = {one: learned.usual(what, tenant=one) for one in set(tenant)}
    return np.array([usual[one] for one in tenant], dtype=np.float64)


def _groups(trips: Trips) -> Ints:
    """Whose errors tell of each order's, see spread.py."""
    carried_min = _minutes_since(trips.picked_up_us, trips.as_of_us)
    straight_m = great_circle_m(trips.pickup_lat, trips.pickup_lon, trips.dropoff_lat, trips.dropoff_lon)
    late = overdue(straight_m, trips.vehicle, carried_min)
    after = np.where(late, spread.OVERDUE, spread.AFTER_PICKUP)
    return np.where(trips.phase >= Phase.TO_DESTINATION, after, spread.BEFORE_PICKUP)


def _ways(trips: Trips, learned: Learned) -> Table:
    """Metres of each leg, n × 5."""
    detour = learned.detour()[trips.vehicle]
    ways = np.zeros((len(trips), LEGS))
    to_pickup = great_circle_m(trips.here_lat, trips.here_lon, trips.pickup_lat, trips.pickup_lon)
    to_pickup = np.where(np.isnan(to_pickup), _typical(learned, "approach_m", trips.tenant), to_pickup)
    carried = great_circle_m(trips.pickup_lat, trips.pickup_lon, trips.dropoff_lat, trips.dropoff_lon)
    ahead = great_circle_m(trips.here_lat, trips.here_lon, trips.dropoff_lat, trips.dropoff_lon)
    ahead = np.where(np.isnan(ahead), carried, ahead)
    phase = trips.phase
    ways[:, APPROACH] = np.where(phase <= Phase.TO_PICKUP, detour * to_pickup + priors.WAY_OFFSET_M, 0.0)
    way_out = np.where(phase < Phase.TO_DESTINATION, carried, ahead)
    ways[:, CARRY] = np.where(phase <= Phase.TO_DESTINATION, detour * way_out + priors.WAY_OFFSET_M, 0.0)
    return ways


def _legs(trips: Trips, ways: Table, speed_mps: Floats, standing: _Standing) -> Table:
    """Minutes of each leg, n × 5."""
    phase = trips.phase
    legs = np.zeros((len(trips), LEGS))
    legs[:, APPROACH] = ways[:, APPROACH] / speed_mps / 60
    legs[:, CARRY] = ways[:, CARRY] / speed_mps / 60

    # An order exists from its placement on, whatever the clock of the one who reports the courier says.
    now_us = np.maximum(trips.as_of_us, trips.placed_us)
    waited = _minutes_since(trips.placed_us, now_us)
    legs[:, ASSIGN] = np.where(phase == Phase.UNASSIGNED, _left(standing.assign, waited), 0.0)

    here = _minutes_since(trips.since_us, trips.as_of_us)
    until_ready = np.where(
        trips.ready_us != NEVER, -_minutes_since(trips.ready_us, now_us), standing.prep - waited
    )
    until_there = legs[:, ASSIGN] + legs[:, APPROACH]
    dwell = np.where(phase == Phase.AT_PICKUP, _left(standing.dwell, here), standing.dwell)
    wait = np.maximum(until_ready - until_there, 0.0) + dwell
    legs[:, WAIT] = np.where(phase <= Phase.AT_PICKUP, wait, 0.0)

    handover = np.where(phase == Phase.AT_DESTINATION, _left(standing.handover, here), standing.handover)
    legs[:, HANDOVER] = np.where(phase <= Phase.AT_DESTINATION, handover, 0.0)
    return legs


def _left(usual_min: Floats, passed_min: Floats) -> Floats:
    return np.asarray(np.maximum(usual_min - np.maximum(passed_min, 0.0), _LEFT_OVER * usual_min))


def _minutes_since(then_us: Ints, now_us: Ints) -> Floats:
    """Minutes passed; 0 if it is not known since when."""
    return (now_us - np.where(then_us == NEVER, now_us, then_us)) / _US_PER_MIN
