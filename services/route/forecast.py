"""What eta's predictions teach an allocation: pace of each vehicle, readiness and delay of each order. Pure.

eta predicts some of the pairs of order and courier. Allocation weighs many more, and routes of several
orders, which eta cannot know yet. So predictions are not used as prices but correct the prices: how fast
vehicles really are, when food is really ready, and how much later than planned deliveries really come.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

from services.route.fleet import CourierState, OrderWork
from services.route.limits import DETOUR, SPEED_KPH, Vehicle
from services.route.travel import distance_m

# A factor outside of this says more about the shortness of a leg than about traffic.
_PACE_MIN: Final = 0.5
_PACE_MAX: Final = 4.0
_SHORT_LEG_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """eta's medians for one order carried by one courier who goes for it directly. Seconds from now."""

    pickup_s: float
    delivery_s: float
    to_pickup_s: float
    wait_s: float
    to_destination_s: float


@dataclass(frozen=True, slots=True)
class Corrections:
    """How to read the default assumptions."""

    # Real over assumed seconds of travel.
    pace: Mapping[Vehicle, float] = field(default_factory=dict)
    # By order_id: seconds from now until it is ready.
    ready_s: Mapping[str, float] = field(default_factory=dict)
    # By order_id: seconds that the handover comes later than planned, 0 and up.
    delay_s: Mapping[str, float] = field(default_factory=dict)


def seconds_between(vehicle: Vehicle, metres: float, pace: float = 1.0) -> float:
    """Assumed seconds for a great-circle distance."""
    return metres * DETOUR / (SPEED_KPH[vehicle] / 3.6) * pace


def corrections(
    orders: Mapping[str, OrderWork],
    couriers: Mapping[str, CourierState],
    forecasts: Mapping[tuple[str, str], Forecast],
    now: float,
) -> Corrections:
    """Corrections from forecasts by (order_id, driver_id). `now` in epoch seconds."""
    ratios: dict[Vehicle, list[float]] = defaultdict(list)
    ready: dict[str, list[float]] = defaultdict(list)
    for (order_id, driver_id), forecast in forecasts.items():
        order, courier = orders[order_id], couriers[driver_id]
        for found_s, metres in (
            (forecast.to_pickup_s, distance_m(courier.position, order.pickup)),
            (forecast.to_destination_s, distance_m(order.pickup, order.dropoff)),
        ):
            assumed_s = seconds_between(courier.vehicle, metres)
            if assumed_s >= _SHORT_LEG_S and found_s > 0:
                ratios[courier.vehicle].append(found_s / assumed_s)
        if forecast.wait_s > 0:
            ready[order_id].append(forecast.to_pickup_s + forecast.wait_s)
    pace = {vehicle: min(_PACE_MAX, max(_PACE_MIN, median(found))) for vehicle, found in ratios.items()}
    ready_s = {order_id: median(found) for order_id, found in ready.items()}
    late: dict[str, list[float]] = defaultdict(list)
    for (order_id, driver_id), forecast in forecasts.items():
        order, courier = orders[order_id], couriers[driver_id]
        factor = pace.get(courier.vehicle, 1.0)
        there = seconds_between(courier.vehicle, distance_m(courier.position, order.pickup), factor)
        known = order.ready_at - now if order.ready_at is not None else 0.0
        begin = max(there, ready_s.get(order_id, known))
        onward = seconds_between(courier.vehicle, distance_m(order.pickup, order.dropoff), factor)
        planned = begin + courier.limits.pickup_service_s + onward
        late[order_id].append(max(0.0, forecast.delivery_s - planned))
    return Corrections(pace, ready_s, {order_id: median(found) for order_id, found in late.items()})


def corrected(order: OrderWork, by: Corrections, now: float) -> OrderWork:
    """The order with eta's readiness, and with its promise brought forward by the delay to be expected."""
    ready_s = by.ready_s.get(order.order_id)
    delay_s = by.delay_s.get(order.order_id, 0.0)
    return replace(
        order,
        ready_at=order.ready_at if ready_s is None else now + ready_s,
        promised_until=None if order.promised_until is None else order.promised_until - delay_s,
    )


def choose_pairs(shortlist: Mapping[str, Sequence[str]], limit: int) -> list[tuple[str, str]]:
    """Which pairs to ask eta about: every order's nearest courier first, then every second, up to `limit`."""
    pairs: list[tuple[str, str]] = []
    depth = max((len(drivers) for drivers in shortlist.values()), default=0)
    for rank in range(depth):
        for order_id, drivers in shortlist.items():
            if rank < len(drivers):
                pairs.append((order_id, drivers[rank]))
                if len(pairs) == limit:
                    return pairs
    return pairs
