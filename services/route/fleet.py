"""Couriers and orders as allocation and planning see them; times in seconds since the epoch. Pure."""

from dataclasses import dataclass

from services.route.limits import MAX_PLANNED, UNLIMITED, Limits, Vehicle, default_limits
from services.route.stops import Job
from services.route.travel import Place


@dataclass(frozen=True, slots=True)
class OrderWork:
    """What carrying an order takes. Times are epoch seconds; None: not known."""

    order_id: str
    revision: int
    pickup: Place
    dropoff: Place
    placed_at: float
    ready_at: float | None = None
    promised_from: float | None = None
    promised_until: float | None = None
    size: float = 1.0
    priority: int = 0
    skills: frozenset[str] = frozenset()
    merchant_id: str = ""
    on_board: bool = False


@dataclass(frozen=True, slots=True)
class CourierState:
    """A courier with a known position and the orders on hand."""

    driver_id: str
    vehicle: Vehicle
    position: Place
    capacity: float = 4.0
    skills: frozenset[str] = frozenset()
    rating: float | None = None
    orders: tuple[OrderWork, ...] = ()
    asked: Limits | None = None
    """Limits that a request sets; None: the default."""
    unread: int = 0
    """Orders on hand beside `orders`: how many there are is enough to know until the courier is weighed."""

    @property
    def limits(self) -> Limits:
        """What was asked for, else the default limits of the vehicle with the courier's own capacity."""
        return self.asked or default_limits(self.vehicle, self.capacity)

    @property
    def most_orders(self) -> int:
        """How many orders the courier may have in all: as many as on board, if they can be planned."""
        return min(self.limits.max_on_board, MAX_PLANNED)

    @property
    def room(self) -> int:
        """How many more orders the courier may get."""
        return max(0, self.most_orders - len(self.orders) - self.unread)


def places(start: Place, orders: tuple[OrderWork, ...]) -> list[Place]:
    """The places of a problem: the start, then pickup and dropoff of each order."""
    found = [start]
    for order in orders:
        found += (order.pickup, order.dropoff)
    return found


def jobs(orders: tuple[OrderWork, ...], start_at: float) -> tuple[Job, ...]:
    """The orders as jobs of a route that starts at `start_at`, at the places that `places` gives."""
    made: list[Job] = []
    for index, order in enumerate(orders):
        ready = 0 if order.ready_at is None else round(order.ready_at - start_at)
        earliest = 0 if order.promised_from is None else max(0, round(order.promised_from - start_at))
        # An order that is late already stays comparable: its lateness counts from the promise.
        latest = UNLIMITED if order.promised_until is None else round(order.promised_until - start_at)
        pickup = None if order.on_board else 1 + 2 * index
        made.append(Job(order.order_id, pickup, 2 + 2 * index, ready, earliest, latest, order.size))
    return tuple(made)
