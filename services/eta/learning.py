"""What past deliveries teach: means per merchant and area, speeds and detours per vehicle, and the spread
of errors.

A mean of few observations is drawn towards the mean one level up (merchant → area → all → prior), as in
empirical Bayes estimation with a fixed weight.

How long things take at a tenant's merchants, areas and doors is the tenant's own: nobody else's predictions
tell of it. Shared are speeds and detours, which are those of streets, and the spread of errors, which is the
model's.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome, LegKind, LegOutcome

from services.eta import priors
from services.eta.spread import AFTER_PICKUP, BEFORE_PICKUP, PICKUP, Spread
from services.eta.spread import OVERDUE as OVERDUE_GROUP
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.tenancy import tenant_of
from services.roads.great_circle import Floats

# Observations that the level above counts as.
_WEIGHT: Final = 8.0
# Trips, in metres and seconds, that the prior of a vehicle counts as: ten ways of 3 km.
_VEHICLE_M: Final = 30_000.0
_RECENT_ORDERS: Final = 10_000
# Beyond these an observation is a fault of the record, not of the kitchen.
_MAX_MIN: Final = 240.0
_DETOURS: Final = (1.0, 3.0)
_SPEEDS_MPS: Final = (0.3, 40.0)
_MIN_WAY_M: Final = 200.0
# A courier who stood longer than this waited for the kitchen.
_WAITED_MIN: Final = 3.0

_PRIORS: Final = {
    "assign": priors.ASSIGN_MIN,
    "prep": priors.PREP_MIN,
    "dwell": priors.DWELL_MIN,
    "handover": priors.HANDOVER_MIN,
    "approach_m": priors.APPROACH_M,
}
VEHICLES: Final = len(priors.SPEED_KPH)

MODEL: Final = "greatcircle-1"

# Names in DeliveryOutcome.context.numbers that carry what the outcome has no field for.
RAW_MINUTES: Final = "eta_raw_minutes"
RAW_PICKUP_MINUTES: Final = "eta_raw_pickup_minutes"
PICKUP_P10_MINUTES: Final = "eta_pickup_p10_minutes"
PICKUP_P90_MINUTES: Final = "eta_pickup_p90_minutes"
STANDS_FOR: Final = "eta_stands_for"
FOOD_WAIT_MINUTES: Final = "eta_food_wait_minutes"
OVERDUE: Final = "eta_overdue"


@dataclass(slots=True)
class _Mean:
    count: float = 0.0
    total: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.total += value

    def towards(self, above: float) -> float:
        return (self.total + _WEIGHT * above) / (self.count + _WEIGHT)


class Learned:
    """All that was learned so far. `revision` counts the outcomes taken in."""

    def __init__(self) -> None:
        self.revision = 0
        self.spread = Spread()
        self._means: dict[tuple[str, str, str], _Mean] = {}
        # Sums of metres travelled, seconds taken and straight metres by VehicleType; the last row is all
        # vehicles.
        self._travel = np.zeros((VEHICLES + 1, 4))
        self._recent: dict[str, None] = {}

    @property
    def version(self) -> str:
        """Name of the model as it stands."""
        return f"{MODEL}.{self.revision}"

    def usual(self, what: str, *, tenant: str = DEFAULT_TENANT, merchant: str = "", area: str = "") -> float:
        """Expected minutes (metres for `approach_m`) of `assign`, `prep`, `dwell`, `handover`.

        `merchant` and `area` are qualified.
        """
        value = self._mean(what, "all", _all_of(tenant)).towards(_PRIORS[what])
        if area:
            value = self._mean(what, "area", area).towards(value)
        if merchant:
            value = self._mean(what, "merchant", merchant).towards(value)
        return value

    def speed_mps(self) -> Floats:
        """Usual speed by VehicleType, m/s."""
        prior = priors.SPEED_KPH / 3.6
        everyone = self._travel[-1]
        # All vehicles together say how this fleet's city compares with the prior.
        ratio = (everyone[0] + _VEHICLE_M) / (everyone[0] + _VEHICLE_M + everyone[3])
        own = self._travel[:-1]
        expected = prior * ratio
        return np.asarray((own[:, 0] + _VEHICLE_M) / (own[:, 1] + _VEHICLE_M / expected))

    def detour(self) -> Floats:
        """Way over great circle by VehicleType."""
        everyone = self._travel[-1]
        overall = (everyone[0] + priors.DETOUR * _VEHICLE_M) / (everyone[2] + _VEHICLE_M)
        own = self._travel[:-1]
        factors = (own[:, 0] + overall * _VEHICLE_M) / (own[:, 2] + _VEHICLE_M)
        return np.asarray(np.clip(factors, *_DETOURS))

    def learn(self, outcomes: Iterable[DeliveryOutcome]) -> None:
        """Take in outcomes in the order in which they were stored."""
        groups, predicted, actual, weights = [], [], [], []

        def take(
            group: int, raw_min: float, interval: tuple[float, float], actual_min: float, weight: float
        ) -> None:
            if 0 <= raw_min < 10 * _MAX_MIN and 0 <= actual_min < 10 * _MAX_MIN:
                self.spread.judge(group, raw_min, interval, actual_min)
                groups.append(group)
                predicted.append(raw_min)
                actual.append(actual_min)
                weights.append(weight)

        for outcome in outcomes:
            self.revision += 1
            if outcome.order_id not in self._recent:
                self._remember(outcome.order_id)
                self._learn_legs(outcome)
            numbers = outcome.context.numbers
            weight = min(max(numbers.get(STANDS_FOR, 1.0), 0.1), _MAX_MIN)
            # Minutes to the pickup; none if nobody knows when that was.
            to_pickup = math.inf
            if outcome.HasField("picked_up_at"):
                to_pickup = (_us(outcome.picked_up_at) - _us(outcome.predicted_at)) / 60e6
            carried = OVERDUE_GROUP if numbers.get(OVERDUE) else AFTER_PICKUP
            group = carried if to_pickup <= 0 else BEFORE_PICKUP
            raw = numbers.get(RAW_MINUTES, outcome.p50_minutes)
            interval = outcome.p10_minutes, outcome.p90_minutes
            take(group, raw, interval, outcome.actual_minutes, weight)
            if to_pickup > 0 and RAW_PICKUP_MINUTES in numbers:
                interval = numbers.get(PICKUP_P10_MINUTES, 0.0), numbers.get(PICKUP_P90_MINUTES, 0.0)
                take(PICKUP, numbers[RAW_PICKUP_MINUTES], interval, to_pickup, weight)
        if groups:
            self.spread.learn(np.array(groups), np.array(predicted), np.array(actual), np.array(weights))

    def _remember(self, order_id: str) -> None:
        # Several predictions of one order are scored, but its legs happened once.
        self._recent[order_id] = None
        if len(self._recent) > _RECENT_ORDERS:
            del self._recent[next(iter(self._recent))]

    def _learn_legs(self, outcome: DeliveryOutcome) -> None:
        context = outcome.context
        vehicle = context.vehicle_type
        for leg in outcome.legs:
            if not leg.HasField("actual_minutes") or leg.actual_minutes > _MAX_MIN:
                continue
            match leg.kind:
                case LegKind.LEG_KIND_ASSIGN:
                    self._observe("assign", leg.actual_minutes, outcome)
                case LegKind.LEG_KIND_WAIT:
                    food_wait = context.numbers.get(FOOD_WAIT_MINUTES, 0.0)
                    self._observe("dwell", max(leg.actual_minutes - food_wait, 0.0), outcome)
                    if leg.actual_minutes > _WAITED_MIN:
                        self._learn_prep(outcome)
                case LegKind.LEG_KIND_HANDOVER:
                    self._observe("handover", leg.actual_minutes, outcome)
                case LegKind.LEG_KIND_TO_PICKUP:
                    if leg.distance_m > 0:
                        self._observe("approach_m", leg.distance_m, outcome)
                    self._learn_way(leg, vehicle)
                case LegKind.LEG_KIND_TO_DESTINATION:
                    self._learn_way(leg, vehicle)

    def _learn_prep(self, outcome: DeliveryOutcome) -> None:
        placed_to_pickup = sum(
            leg.actual_minutes
            for leg in outcome.legs
            if leg.kind in (LegKind.LEG_KIND_ASSIGN, LegKind.LEG_KIND_TO_PICKUP, LegKind.LEG_KIND_WAIT)
        )
        if placed_to_pickup < _MAX_MIN:
            self._observe("prep", placed_to_pickup, outcome)

    def _learn_way(self, leg: LegOutcome, vehicle: int) -> None:
        if not leg.HasField("travelled_m") or leg.distance_m < _MIN_WAY_M or leg.actual_minutes <= 0:
            return
        seconds = leg.actual_minutes * 60
        speed = leg.travelled_m / seconds
        # Less way than the straight line: fixes were missing, or shared with another order.
        if not (_SPEEDS_MPS[0] <= speed <= _SPEEDS_MPS[1]) or leg.travelled_m < leg.distance_m * 0.98:
            return
        straight = max(leg.distance_m, leg.travelled_m / _DETOURS[1])
        # Seconds beyond what the prior expects, for the fleet as a whole.
        late_m = seconds * priors.SPEED_KPH[vehicle] / 3.6 - leg.travelled_m
        observed = np.array([leg.travelled_m, seconds, straight, late_m])
        self._travel[vehicle] += observed
        self._travel[-1] += observed

    def _observe(self, what: str, value: float, outcome: DeliveryOutcome) -> None:
        self._mean(what, "all", _all_of(tenant_of(outcome.order_id)), make=True).add(value)
        if outcome.context.area:
            self._mean(what, "area", outcome.context.area, make=True).add(value)
        if outcome.context.merchant_id:
            self._mean(what, "merchant", outcome.context.merchant_id, make=True).add(value)

    def _mean(self, what: str, level: str, name: str, *, make: bool = False) -> _Mean:
        key = (what, level, name)
        found = self._means.get(key)
        if found is None:
            found = _Mean()
            if make:
                self._means[key] = found
        return found

    def dump(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "revision": self.revision,
            "means": [[*key, mean.count, mean.total] for key, mean in self._means.items()],
            "travel": self._travel.tolist(),
            "spread": self.spread.dump(),
            "reach": self.spread.dump_reach(),
            "recent": list(self._recent)[-1000:],
        }

    @classmethod
    def restore(cls, dumped: Mapping[str, Any]) -> "Learned":
        """What `dump` gave."""
        learned = cls()
        learned.revision = int(dumped["revision"])
        for what, level, name, count, total in dumped["means"]:
            learned._means[what, level, name] = _Mean(count, total)
        learned._travel = np.array(dumped["travel"], dtype=np.float64)
        learned.spread = Spread.restore(dumped["spread"], dumped.get("reach", ()))
        learned._recent = dict.fromkeys(dumped["recent"])
        return learned


def _all_of(tenant: str) -> str:
    """Name of the mean of all that a tenant's deliveries teach."""
    return "" if tenant == DEFAULT_TENANT else tenant


def _us(stamp: Any) -> int:
    return int(stamp.seconds) * 1_000_000 + int(stamp.nanos) // 1000
