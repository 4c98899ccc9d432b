"""Orders of a small city: when they are placed, where from, where to."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.sim.plane import Point

_MERCHANTS: Final = 12
_MERCHANT_SPREAD_M: Final = 700.0
_DROPOFF_M: Final = (500.0, 2200.0)
# Preparation time: median and spread of its logarithm, seconds.
_PREPARATION_S: Final = 360.0
_PREPARATION_SPREAD: Final = 0.35


@dataclass(frozen=True, slots=True)
class Demand:
    """One order as a customer places it. Times are simulated seconds."""

    number: int
    placed_s: float
    merchant: int
    pickup: Point
    dropoff: Point
    preparation_s: float
    """What the merchant really needs; the promise is the median."""

    @property
    def ready_s(self) -> float:
        """When it can be picked up."""
        return self.placed_s + self.preparation_s

    @property
    def promised_ready_s(self) -> float:
        """When the merchant says it can be."""
        return self.placed_s + _PREPARATION_S


def demand(centre: Point, per_hour: float, rng: random.Random) -> Iterator[Demand]:
    """Orders without end, in order of placement: a Poisson process; the first one right at the start."""
    merchants = [
        centre.moved(rng.gauss(0, _MERCHANT_SPREAD_M), rng.gauss(0, _MERCHANT_SPREAD_M))
        for _ in range(_MERCHANTS)
    ]
    placed_s = 0.0
    number = 0
    while True:
        merchant = rng.randrange(_MERCHANTS)
        pickup = merchants[merchant]
        way_m = rng.uniform(*_DROPOFF_M)
        # Any direction: a point of the square's edge is as good as one of the circle's here.
        side_m = rng.uniform(-way_m, way_m)
        dropoff = pickup.moved(way_m, side_m) if rng.random() < 0.5 else pickup.moved(side_m, -way_m)
        preparation_s = _PREPARATION_S * rng.lognormvariate(0, _PREPARATION_SPREAD)
        yield Demand(number, placed_s, merchant, pickup, dropoff, preparation_s)
        number += 1
        placed_s += rng.expovariate(per_hour / 3600)
