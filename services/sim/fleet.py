"""A small fleet and its customers, as one simulation: time goes in, orders placed and fixes sent come out."""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from waymesh.gps.v1.gps_pb2 import TripStage

from services.sim.courier import Sighting, SimCourier
from services.sim.demand import Demand, demand
from services.sim.plane import Point
from services.sim.vehicles import FLEET_MIX

# Where the demo plays: the centre of São Paulo.
CENTRE: Final = Point(-23.5505, -46.6333)
_SPREAD_M: Final = 900.0
# A courier does two to three orders an hour here; a little less keeps the queue short.
_ORDERS_PER_COURIER_HOUR: Final = 2.4


@dataclass(frozen=True, slots=True)
class Step:
    """What happened since the step before."""

    placed: list[Demand]
    sightings: list[tuple[SimCourier, Sighting]]


class Fleet:
    """`couriers` couriers around a centre; the same seed and the same assignments give the same day."""

    def __init__(self, couriers: int, seed: int, centre: Point = CENTRE) -> None:
        rng = random.Random(seed)
        self.couriers = {
            f"courier-{number:03}": SimCourier(
                f"courier-{number:03}",
                FLEET_MIX[number % len(FLEET_MIX)],
                centre.moved(rng.gauss(0, _SPREAD_M), rng.gauss(0, _SPREAD_M)),
                0.0,
                random.Random(rng.random()),
            )
            for number in range(couriers)
        }
        per_hour = couriers * _ORDERS_PER_COURIER_HOUR
        self._demand: Iterator[Demand] = demand(centre, per_hour, random.Random(rng.random()))
        self._next = next(self._demand)

    def assign(self, driver_id: str, order_id: str, placed: Demand) -> bool:
        """Gives an order to a courier; False if there is no such courier."""
        courier = self.couriers.get(driver_id)
        if courier is None:
            return False
        courier.assign(order_id, placed)
        return True

    def advance(self, until_s: float) -> Step:
        """Lives until the time, simulated seconds from the start."""
        placed = []
        while self._next.placed_s <= until_s:
            placed.append(self._next)
            self._next = next(self._demand)
        sightings = [
            (courier, sighting) for courier in self.couriers.values() for sighting in courier.advance(until_s)
        ]
        return Step(placed, sightings)

    def stages(self) -> Counter[TripStage.ValueType]:
        """How many couriers are at what."""
        return Counter(courier.stage for courier in self.couriers.values())
