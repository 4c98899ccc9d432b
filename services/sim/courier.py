"""One simulated courier: makes its stops one after the other and says where it is on the way."""

import random
from collections.abc import Sequence
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

_IDLE: Final = TripStage.TRIP_STAGE_IDLE
_TO_PICKUP: Final = TripStage.TRIP_STAGE_TO_PICKUP
_AT_PICKUP: Final = TripStage.TRIP_STAGE_AT_PICKUP
_TO_DESTINATION: Final = TripStage.TRIP_STAGE_TO_DESTINATION
_AT_DESTINATION: Final = TripStage.TRIP_STAGE_AT_DESTINATION
_DELIVERED: Final = TripStage.TRIP_STAGE_DELIVERED


@dataclass(frozen=True, slots=True)
class Sighting:
    """A fix as the courier's phone sends it."""

    at_s: float
    reading: Reading
    speed_kph: float
    stage: TripStage.ValueType
    order_id: str


@dataclass(frozen=True, slots=True)
class Call:
    """A stop to make: an order fetched or brought."""

    order_id: str
    is_pickup: bool


class SimCourier:
    """Moves on straight legs at a speed drawn for each leg. `advance` is the only thing that moves time."""

    def __init__(
        self, driver_id: str, vehicle: VehicleType.ValueType, place: Point, at_s: float, rng: random.Random
    ) -> None:
        self.driver_id = driver_id
        self.vehicle = vehicle
        self.place = place
        self.stage: TripStage.ValueType = _IDLE
        self._rng = rng
        self._receiver = Receiver(rng)
        self._orders: dict[str, Demand] = {}
        self._calls: list[Call] = []
        self._at_s = at_s
        self._speed_kph = 0.0
        self._dwell_until_s = 0.0
        self._next_fix_s = at_s + rng.uniform(0, FIX_EVERY_S)

    @property
    def orders(self) -> int:
        """Orders on hand."""
        return len(self._orders)

    def assign(self, order_id: str, demand: Demand) -> None:
        """One more order, after those on hand."""
        self._orders[order_id] = demand
        self._calls += (Call(order_id, is_pickup=True), Call(order_id, is_pickup=False))

    def follow(self, plan: Sequence[Call]) -> None:
        """Makes the stops in the order of a plan from now on; the one under way stays first.

        Stops that the plan does not name come last, those it names that are made already are left out.
        """
        fixed = self._calls[:1] if self.stage != _IDLE else []
        left = [call for call in self._calls if call not in fixed]
        planned = [call for call in plan if call in left]
        self._calls = [*fixed, *planned, *(call for call in left if call not in planned)]

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
                    seen.append(self._sighting(reading, self._current_order()))
            else:
                self._change(seen)

    def _current_order(self) -> str:
        return self._calls[0].order_id if self.stage != _IDLE else ""

    def _goal(self) -> Point:
        demand = self._orders[self._calls[0].order_id]
        return demand.pickup if self.stage == _TO_PICKUP else demand.dropoff

    def _next_change_s(self) -> float:
        """When the stage changes next if nothing else happens; infinity for an idle courier without
        orders.
        """
        if self.stage == _IDLE:
            return self._at_s if self._calls else float("inf")
        if self.stage in (_AT_PICKUP, _AT_DESTINATION):
            return max(self._at_s, self._dwell_until_s)
        return self._at_s + self.place.distance_m(self._goal()) / (self._speed_kph / 3.6)

    def _move(self, to_s: float) -> None:
        if self.stage in (_TO_PICKUP, _TO_DESTINATION):
            way_m = (to_s - self._at_s) * self._speed_kph / 3.6
            self.place = self.place.toward(self._goal(), way_m)
        self._at_s = max(self._at_s, to_s)

    def _change(self, seen: list[Sighting]) -> None:
        order_id = self._calls[0].order_id
        match self.stage:
            case TripStage.TRIP_STAGE_TO_PICKUP:
                ready_s = max(self._at_s, self._orders[order_id].ready_s)
                self._enter(_AT_PICKUP, order_id, seen)
                self._dwell_until_s = ready_s + self._rng.uniform(*_PICKUP_S)
            case TripStage.TRIP_STAGE_TO_DESTINATION:
                self._enter(_AT_DESTINATION, order_id, seen)
                self._dwell_until_s = self._at_s + self._rng.uniform(*_HANDOVER_S)
            case TripStage.TRIP_STAGE_AT_PICKUP:
                del self._calls[0]
                # Told even if another order is fetched first, since it says that this one is on board.
                self._enter(_TO_DESTINATION, order_id, seen)
                if self._calls[0] != Call(order_id, is_pickup=False):
                    self._set_out(seen)
            case TripStage.TRIP_STAGE_AT_DESTINATION:
                self._enter(_DELIVERED, order_id, seen)
                del self._calls[0], self._orders[order_id]
                self.stage = _IDLE
                if self._calls:
                    self._set_out(seen)
            case _:
                self._set_out(seen)

    def _set_out(self, seen: list[Sighting]) -> None:
        call = self._calls[0]
        self._enter(_TO_PICKUP if call.is_pickup else _TO_DESTINATION, call.order_id, seen)

    def _enter(self, stage: TripStage.ValueType, order_id: str, seen: list[Sighting]) -> None:
        self.stage = stage
        if stage in (_TO_PICKUP, _TO_DESTINATION):
            self._speed_kph = PACES[self.vehicle].draw(self._rng)
        seen.append(self._sighting(Reading(self.place, accuracy_m=10.0), order_id))

    def _sighting(self, reading: Reading, order_id: str) -> Sighting:
        moving = self.stage in (_TO_PICKUP, _TO_DESTINATION)
        return Sighting(
            at_s=self._at_s,
            reading=reading,
            speed_kph=max(0.0, self._rng.gauss(self._speed_kph, 1.5)) if moving else 0.0,
            stage=self.stage,
            order_id=order_id,
        )
