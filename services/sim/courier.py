"""One simulated courier: fetches and brings its orders one after the other, and says where it is on the
way.
"""

import random
from collections import deque
from dataclasses import dataclass
from typing import Final

from waymesh.gps.v1.gps_pb2 import TripStage
from waymesh.gps.v1.vehicle_pb2 import VehicleType

from services.sim.demand import Demand
from services.sim.plane import Point
from services.sim.receiver import Reading, Receiver
from services.sim.vehicles import PACES

FIX_EVERY_S: Final = 5.0
_PICKUP_S: Final = (40.0, 120.0)
_HANDOVER_S: Final = (40.0, 150.0)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A fix as the courier's phone sends it."""

    at_s: float
    reading: Reading
    speed_kph: float
    stage: TripStage.ValueType
    order_id: str


@dataclass(frozen=True, slots=True)
class Task:
    """An order to carry."""

    order_id: str
    demand: Demand


class SimCourier:
    """Moves on straight legs at a speed drawn for each leg. `advance` is the only thing that moves time."""

    def __init__(
        self, driver_id: str, vehicle: VehicleType.ValueType, place: Point, at_s: float, rng: random.Random
    ) -> None:
        self.driver_id = driver_id
        self.vehicle = vehicle
        self.place = place
        self.stage: TripStage.ValueType = TripStage.TRIP_STAGE_IDLE
        self._rng = rng
        self._receiver = Receiver(rng)
        self._tasks: deque[Task] = deque()
        self._at_s = at_s
        self._speed_kph = 0.0
        self._dwell_until_s = 0.0
        self._next_fix_s = at_s + rng.uniform(0, FIX_EVERY_S)

    @property
    def tasks(self) -> int:
        """Orders on hand."""
        return len(self._tasks)

    def assign(self, task: Task) -> None:
        """One more order, after those on hand."""
        self._tasks.append(task)

    def advance(self, until_s: float) -> list[Sighting]:
        """Lives until the time, simulated seconds, and gives the fixes sent on the way.

        Each change of stage is sent at once, whatever the receiver's mood: phones keep what matters.
        """
        seen: list[Sighting] = []
        while True:
            event_s = min(self._next_change_s(), self._next_fix_s)
            if event_s > until_s:
                self._move(until_s)
                return seen
            self._move(event_s)
            if event_s >= self._next_fix_s:
                self._next_fix_s += FIX_EVERY_S
                reading = self._receiver.read(self.place, event_s)
                if reading is not None:
                    seen.append(self._sighting(reading))
            else:
                self._change()
                seen.append(self._sighting(Reading(self.place, accuracy_m=10.0)))
                if self.stage is TripStage.TRIP_STAGE_DELIVERED:
                    self._tasks.popleft()
                    self.stage = TripStage.TRIP_STAGE_IDLE

    def _next_change_s(self) -> float:
        """When the stage changes next if nothing else happens; infinity for an idle courier without
        orders.
        """
        match self.stage:
            case TripStage.TRIP_STAGE_IDLE:
                return self._at_s if self._tasks else float("inf")
            case TripStage.TRIP_STAGE_AT_PICKUP | TripStage.TRIP_STAGE_AT_DESTINATION:
                return max(self._at_s, self._dwell_until_s)
            case _:
                return self._at_s + self.place.distance_m(self._goal()) / (self._speed_kph / 3.6)

    def _goal(self) -> Point:
        demand = self._tasks[0].demand
        return demand.pickup if self.stage is TripStage.TRIP_STAGE_TO_PICKUP else demand.dropoff

    def _move(self, to_s: float) -> None:
        if self.stage in (TripStage.TRIP_STAGE_TO_PICKUP, TripStage.TRIP_STAGE_TO_DESTINATION):
            way_m = (to_s - self._at_s) * self._speed_kph / 3.6
            self.place = self.place.toward(self._goal(), way_m)
        self._at_s = max(self._at_s, to_s)

    def _change(self) -> None:
        rng = self._rng
        match self.stage:
            case TripStage.TRIP_STAGE_IDLE:
                self.stage = TripStage.TRIP_STAGE_TO_PICKUP
                self._speed_kph = PACES[self.vehicle].draw(rng)
            case TripStage.TRIP_STAGE_TO_PICKUP:
                self.stage = TripStage.TRIP_STAGE_AT_PICKUP
                ready_s = self._tasks[0].demand.ready_s
                self._dwell_until_s = max(self._at_s, ready_s) + rng.uniform(*_PICKUP_S)
            case TripStage.TRIP_STAGE_AT_PICKUP:
                self.stage = TripStage.TRIP_STAGE_TO_DESTINATION
                self._speed_kph = PACES[self.vehicle].draw(rng)
            case TripStage.TRIP_STAGE_TO_DESTINATION:
                self.stage = TripStage.TRIP_STAGE_AT_DESTINATION
                self._dwell_until_s = self._at_s + rng.uniform(*_HANDOVER_S)
            case _:
                self.stage = TripStage.TRIP_STAGE_DELIVERED

    def _sighting(self, reading: Reading) -> Sighting:
        moving = self.stage in (TripStage.TRIP_STAGE_TO_PICKUP, TripStage.TRIP_STAGE_TO_DESTINATION)
        return Sighting(
            at_s=self._at_s,
            reading=reading,
            speed_kph=max(0.0, self._rng.gauss(self._speed_kph, 1.5)) if moving else 0.0,
            stage=self.stage,
            order_id=self._tasks[0].order_id if self.stage is not TripStage.TRIP_STAGE_IDLE else "",
        )
