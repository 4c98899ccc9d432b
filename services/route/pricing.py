"""What it costs to give an order to a courier: the best route with it less the best route without it. Pure.

Both routes are exact (stops.py), so an order that lies on the way of another is priced as just that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.route.fleet import CourierState, OrderWork, jobs, places
from services.route.forecast import Corrections, corrected
from services.route.limits import DETOUR, SPEED_KPH, UNLIMITED, Vehicle
from services.route.stops import DEFAULT_WEIGHTS, Kind, Plan, Problem, Visit, solve
from services.route.travel import Place, Travel, plane


@dataclass(frozen=True, slots=True)
class Offer:
    """What it would mean to give one order to one courier. Seconds from now."""

    price: int  # in units of stops.Weights
    arrive_s: int
    pickup_s: int  # service at the pickup begins: the courier is there and the food is ready
    delivery_s: int
    added_s: int  # longer route of the courier
    added_lateness_s: int  # over all orders of the courier
    lateness_s: int  # of this order
    plan: Plan

    @property
    def price_s(self) -> float:
        """The price as seconds of a courier's work."""
        return self.price / DEFAULT_WEIGHTS.duration_per_s


class Pricing:
    """Prices for one allocation. Holds who has which orders; everything else is cached from that."""

    def __init__(
        self, orders: Sequence[OrderWork], couriers: Sequence[CourierState], by: Corrections, now: float
    ) -> None:
        self.orders = {order.order_id: corrected(order, by, now) for order in orders}
        self.couriers = {courier.driver_id: courier for courier in couriers}
        self.routes: dict[str, tuple[OrderWork, ...]] = {c.driver_id: c.orders for c in couriers}
        self._by = by
        self._now = now
        self._plans: dict[tuple[str, tuple[str, ...]], Plan | None] = {}

    def room(self, driver_id: str) -> int:
        """How many more orders the courier may get."""
        courier = self.couriers[driver_id]
        return courier.room - (len(self.routes[driver_id]) - len(courier.orders))

    def plan(self, driver_id: str, orders: tuple[OrderWork, ...]) -> Plan | None:
        """The courier's best route with these orders; None if the limits leave none."""
        key = (driver_id, tuple(order.order_id for order in orders))
        if key in self._plans:
            return self._plans[key]
        courier = self.couriers[driver_id]
        travel = self._travel(courier.vehicle, courier.position, orders)
        found = solve(Problem(travel, jobs(orders, self._now), courier.limits))
        self._plans[key] = found
        return found

    def offer(self, driver_id: str, order_id: str) -> Offer | None:
        """What it would mean to give the order to the courier besides what is on hand; None: it cannot."""
        if self.room(driver_id) <= 0:
            return None
        carried = self.routes[driver_id]
        before = self.plan(driver_id, carried)
        # A courier whose own orders break the limits already gets no more.
        after = None if before is None else self.plan(driver_id, (*carried, self.orders[order_id]))
        if before is None or after is None:
            return None
        pickup, dropoff = visits_of(after, len(carried))
        return Offer(
            price=after.cost - before.cost,
            arrive_s=pickup.arrive_s,
            pickup_s=pickup.begin_s,
            delivery_s=dropoff.begin_s,
            added_s=after.duration_s - before.duration_s,
            added_lateness_s=after.lateness_s - before.lateness_s,
            lateness_s=dropoff.lateness_s,
            plan=after,
        )

    def give(self, driver_id: str, order_id: str) -> None:
        """The courier has the order from now on."""
        self.routes[driver_id] = (*self.routes[driver_id], self.orders[order_id])

    def take(self, driver_id: str, order_id: str) -> None:
        """The courier has the order no longer."""
        self.routes[driver_id] = tuple(o for o in self.routes[driver_id] if o.order_id != order_id)

    def ideal(self, driver_id: str, order_id: str) -> int:
        """The price if the courier stood at the pickup, free, when the food is ready: no choice can be better
        but one that shares the way with another order."""
        order, courier = self.orders[order_id], self.couriers[driver_id]
        ready = max(self._now, order.ready_at or self._now)
        travel = self._travel(courier.vehicle, order.pickup, (order,))
        limits = replace(courier.limits, max_duration_s=UNLIMITED, max_length_m=UNLIMITED)
        plan = solve(Problem(travel, jobs((order,), ready), limits))
        return plan.cost if plan is not None else 0

    def _travel(self, vehicle: Vehicle, start: Place, orders: tuple[OrderWork, ...]) -> Travel:
        speed = SPEED_KPH[vehicle] / self._by.pace.get(vehicle, 1.0)
        return plane(places(start, orders), speed, DETOUR)


def visits_of(plan: Plan, job: int) -> tuple[Visit, Visit]:
    """Pickup and dropoff of a job that is not on board yet."""
    mine = [visit for visit in plan.visits if visit.job == job]
    if len(mine) != 2 or mine[0].kind is not Kind.PICKUP:
        raise ValueError("the order is on board already")
    return mine[0], mine[1]
