"""What the fixes have told of each order: stages and their times, ways travelled, the times shown last."""

from dataclasses import dataclass, fields
from typing import Final

from waymesh.gps.v1.gps_pb2 import TripStage
from waymesh.order.v1.order_pb2 import OrderStatus

from services.eta.couriers import NEVER
from services.eta.orders import KnownOrder
from services.eta.predict import Phase

_PHASE_OF_STAGE: Final[dict[int, Phase]] = {
    TripStage.TRIP_STAGE_TO_PICKUP: Phase.TO_PICKUP,
    TripStage.TRIP_STAGE_AT_PICKUP: Phase.AT_PICKUP,
    TripStage.TRIP_STAGE_TO_DESTINATION: Phase.TO_DESTINATION,
    TripStage.TRIP_STAGE_AT_DESTINATION: Phase.AT_DESTINATION,
    TripStage.TRIP_STAGE_DELIVERED: Phase.DONE,
}
_PHASE_OF_STATUS: Final[dict[int, Phase]] = {
    OrderStatus.ORDER_STATUS_ASSIGNED: Phase.TO_PICKUP,
    OrderStatus.ORDER_STATUS_PICKED_UP: Phase.TO_DESTINATION,
    OrderStatus.ORDER_STATUS_DELIVERED: Phase.DONE,
}
# The field that keeps when a stage began, in the order of the stages.
_STAGE_TIMES: Final = (
    (TripStage.TRIP_STAGE_TO_PICKUP, "to_pickup_us"),
    (TripStage.TRIP_STAGE_AT_PICKUP, "at_pickup_us"),
    (TripStage.TRIP_STAGE_TO_DESTINATION, "picked_up_us"),
    (TripStage.TRIP_STAGE_AT_DESTINATION, "at_destination_us"),
    (TripStage.TRIP_STAGE_DELIVERED, "delivered_us"),
)


@dataclass(slots=True)
class Track:
    """One order under way. Times are µs since 1970 by the source's clock, NEVER if it has not happened."""

    order_id: str
    driver_id: str
    stage: int = 0
    stage_us: int = NEVER
    to_pickup_us: int = NEVER
    at_pickup_us: int = NEVER
    picked_up_us: int = NEVER
    at_destination_us: int = NEVER
    delivered_us: int = NEVER
    start_lat: float = float("nan")
    """Where the way to the pickup began, degrees."""
    start_lon: float = float("nan")
    approach_m: float = 0.0
    """Metres travelled to the pickup, by the fixes."""
    carry_m: float = 0.0
    """Metres travelled to the destination, by the fixes."""
    last_us: int = NEVER
    shown_pickup_us: int = NEVER
    """Times that the newest prediction showed."""
    shown_delivery_us: int = NEVER
    awaiting: bool = False
    """A prediction is due as soon as the order is known."""
    scored: bool = False
    """Its delivery has been compared with its predictions."""

    def enter(self, stage: int, at_us: int, here: tuple[float, float]) -> None:
        """The courier is in another stage. Going back takes what came later as not happened."""
        self.stage, self.stage_us = stage, at_us
        for number, name in _STAGE_TIMES:
            if number == stage:
                setattr(self, name, at_us)
            elif number > stage:
                setattr(self, name, NEVER)
        if stage == TripStage.TRIP_STAGE_TO_PICKUP:
            self.start_lat, self.start_lon = here

    def end(self, at_us: int) -> None:
        """Handed over, as the order's status says."""
        self.enter(TripStage.TRIP_STAGE_DELIVERED, at_us, (self.start_lat, self.start_lon))

    def restart(self, driver_id: str) -> None:
        """Another courier's: nothing that was told before holds."""
        fresh = Track(self.order_id, driver_id, scored=self.scored)
        for name in TRACK_FIELDS:
            setattr(self, name, getattr(fresh, name))

    @property
    def over(self) -> bool:
        return self.delivered_us != NEVER


TRACK_FIELDS: Final = tuple(field.name for field in fields(Track))


def phase_of(order: KnownOrder, track: Track | None, at_us: int | None = None) -> Phase:
    """How far an order has come: the fixes or its status, whichever says more.

    With `at_us` it is how far the order had come then: route may have read fixes that are still to come here,
    and what its status says holds only from its own time on.
    """
    told = _PHASE_OF_STATUS.get(order.status, Phase.UNASSIGNED)
    if at_us is not None:
        if told == Phase.DONE and order.delivered_us > at_us:
            told = Phase.TO_DESTINATION
        if told == Phase.TO_DESTINATION and order.picked_up_us > at_us:
            told = Phase.TO_PICKUP
    if told == Phase.UNASSIGNED and order.driver_id:
        told = Phase.TO_PICKUP
    seen = _PHASE_OF_STAGE.get(track.stage, Phase.UNASSIGNED) if track is not None else Phase.UNASSIGNED
    return max(told, seen)
