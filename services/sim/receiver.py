"""A GPS receiver in a courier's pocket: noisy, sometimes silent, now and then far off."""

import random
from dataclasses import dataclass
from typing import Final

from services.sim.plane import Point

# Standard deviation of a phone's fix per axis in a city, metres.
_NOISE_M: Final = 6.0
_OUTLIER_SHARE: Final = 0.004
_OUTLIER_M: Final = (400.0, 3000.0)
# How often a gap begins per fix, and how long it lasts, seconds.
_GAP_SHARE: Final = 0.004
_GAP_S: Final = (30.0, 120.0)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the receiver says."""

    place: Point
    accuracy_m: float


class Receiver:
    """Reads a courier's place; None during a gap."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._silent_until_s = 0.0

    def read(self, place: Point, at_s: float) -> Reading | None:
        """`at_s`: simulated time, seconds."""
        rng = self._rng
        if at_s < self._silent_until_s:
            return None
        chance = rng.random()
        if chance < _GAP_SHARE:
            self._silent_until_s = at_s + rng.uniform(*_GAP_S)
            return None
        if chance < _GAP_SHARE + _OUTLIER_SHARE:
            way_m = rng.uniform(*_OUTLIER_M)
            side = rng.choice((-1, 1)), rng.choice((-1, 1))
            return Reading(place.moved(side[0] * way_m, side[1] * way_m), accuracy_m=_NOISE_M)
        return Reading(place.moved(rng.gauss(0, _NOISE_M), rng.gauss(0, _NOISE_M)), accuracy_m=1.5 * _NOISE_M)
