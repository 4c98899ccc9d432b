"""Which courier carries which order. Pure; may take seconds for a city, so callers keep it off the event
loop.

1. The price of a pair is exact (pricing.py), for the shortlist of each order (shortlist.py).
2. Rounds of minimum-cost assignment, at most one more order per courier and round, until nobody can take
more. 3. An improvement pass: an order moves to another courier if all routes together get cheaper by it.
This is what
   brings two orders of one merchant together although two couriers stood idle.

An order whose food comes so late that the courier would stand at the merchant for long is held back: until
it is time to set out, a nearer courier may become free.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from services.route import explain
from services.route.fleet import CourierState, OrderWork
from services.route.forecast import Corrections
from services.route.pricing import Offer, Pricing
from services.route.stops import DEFAULT_WEIGHTS, Plan

# A pair that cannot be: far above any real price, small enough to add up without loss.
_IMPOSSIBLE: Final = 1e14
_PASSES: Final = 3
# Where there are more orders than couriers, a point of priority outweighs this many seconds of a courier's
# work.
_PRIORITY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Rules:
    """What an allocation goes by."""

    shortlist_size: int = 12  # couriers weighed per order
    hold_wait_s: float = 600.0  # hold back if the courier would stand at the merchant for longer than this
    alternatives: int = 3
    half_score_s: float = 1800.0  # seconds lost, the courier's and the customer's, that halve the score


DEFAULT_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class Assignment:
    """One order given to one courier. Seconds from now."""

    order_id: str
    driver_id: str
    score: float  # 0..100
    pickup_s: int
    delivery_s: int
    price_s: float
    reasoning: tuple[str, ...]
    alternatives: tuple[tuple[str, float], ...]  # driver_id and score, best first


@dataclass(frozen=True, slots=True)
class Waiting:
    """One order that stays without a courier, and why."""

    order_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Route:
    """A courier's orders and the plan through them, as jobs in the order of `orders`."""

    orders: tuple[OrderWork, ...]
    plan: Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an allocation comes to; `routes` holds the couriers who got an order, by driver_id."""

    assignments: tuple[Assignment, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    routes: Mapping[str, Route] = field(default_factory=dict)


def allocate(
    orders: Sequence[OrderWork],
    couriers: Sequence[CourierState],
    listed: Mapping[str, Sequence[str]],
    now: float,
    *,
    by: Corrections | None = None,
    rules: Rules = DEFAULT_RULES,
) -> Outcome:
    """Gives waiting orders to couriers. `listed`: the shortlist by order_id; `now` in epoch seconds."""
    pricing = Pricing(orders, couriers, by or Corrections(), now)
    waiting: list[Waiting] = []
    left: list[str] = []
    for order in orders:
        order_id = order.order_id
        offers = _offers(pricing, order_id, listed)
        if not offers:
            waiting.append(Waiting(order_id, explain.nobody(order, couriers, bool(listed.get(order_id)))))
        elif (wait_s := _idle_wait(offers)) > rules.hold_wait_s:
            ready_s = (pricing.orders[order_id].ready_at or now) - now
            waiting.append(Waiting(order_id, explain.held(ready_s, ready_s - wait_s, rules.hold_wait_s)))
        else:
            left.append(order_id)
    holder: dict[str, str] = {}
    while left:
        given = _round(pricing, left, listed, now)
        if not given:
            break
        for order_id, driver_id in given.items():
            pricing.give(driver_id, order_id)
            holder[order_id] = driver_id
        left = [order_id for order_id in left if order_id not in holder]
    waiting += (Waiting(order_id, explain.outbid()) for order_id in left)
    _improve(pricing, holder, listed)
    assignments = tuple(_explained(pricing, order_id, holder, listed, rules) for order_id in holder)
    routes: dict[str, Route] = {}
    for driver_id in dict.fromkeys(holder.values()):
        plan = pricing.plan(driver_id, pricing.routes[driver_id])
        if plan is None:
            raise AssertionError("a courier was given an order that does not fit")
        routes[driver_id] = Route(pricing.routes[driver_id], plan)
    return Outcome(assignments, tuple(waiting), routes)


def _offers(pricing: Pricing, order_id: str, listed: Mapping[str, Sequence[str]]) -> dict[str, Offer]:
    found = ((driver_id, pricing.offer(driver_id, order_id)) for driver_id in listed.get(order_id, ()))
    return {driver_id: offer for driver_id, offer in found if offer is not None}


def _idle_wait(offers: Mapping[str, Offer]) -> float:
    """Seconds that the courier who is there last would still have to wait for the food."""
    return min(offer.pickup_s - offer.arrive_s for offer in offers.values())


def _round(
    pricing: Pricing, left: Sequence[str], listed: Mapping[str, Sequence[str]], now: float
) -> dict[str, str]:
    """One assignment of minimum total price: order_id to driver_id, no courier twice."""
    columns: dict[str, int] = {}
    entries: list[tuple[int, int, float]] = []
    for row, order_id in enumerate(left):
        order = pricing.orders[order_id]
        # The same for all couriers of a row, so it decides only which orders go first where couriers are few.
        urgency_s = order.priority * _PRIORITY_S + max(0.0, now - order.placed_at)
        urgency = urgency_s * DEFAULT_WEIGHTS.duration_per_s
        for driver_id, offer in _offers(pricing, order_id, listed).items():
            entries.append((row, columns.setdefault(driver_id, len(columns)), offer.price - urgency))
    if not entries:
        return {}
    prices = np.full((len(left), len(columns)), _IMPOSSIBLE)
    for row, column, price in entries:
        prices[row, column] = price
    drivers = list(columns)
    if 1 in prices.shape:
        rows, chosen = (np.array([i]) for i in np.unravel_index(np.argmin(prices), prices.shape))
    else:
        # Half a second and 50 MB to import, so not before there is something to choose between.
        from scipy.optimize import linear_sum_assignment

        rows, chosen = linear_sum_assignment(prices)
    return {
        left[row]: drivers[column]
        for row, column in zip(rows, chosen, strict=True)
        if prices[row, column] < _IMPOSSIBLE / 2
    }


def _improve(pricing: Pricing, holder: dict[str, str], listed: Mapping[str, Sequence[str]]) -> None:
    """Moves orders to other couriers while all routes together get cheaper."""
    for _ in range(_PASSES):
        moved = False
        for order_id, driver_id in list(holder.items()):
            pricing.take(driver_id, order_id)
            offers = _offers(pricing, order_id, listed)
            # Given as part of a larger route, the order may not be had back alone only if limits forbid;
            # then it stays.
            present = offers.get(driver_id)
            best = min(offers, key=lambda name: (offers[name].price, name), default=driver_id)
            if present is not None and offers[best].price < present.price:
                holder[order_id] = best
                moved = True
            pricing.give(holder[order_id], order_id)
        if not moved:
            return


def _explained(
    pricing: Pricing,
    order_id: str,
    holder: Mapping[str, str],
    listed: Mapping[str, Sequence[str]],
    rules: Rules,
) -> Assignment:
    """The assignment as it stands at the end, against what the others could offer now."""
    driver_id = holder[order_id]
    route = pricing.routes[driver_id]
    pricing.take(driver_id, order_id)
    offers = _offers(pricing, order_id, listed)
    pricing.routes[driver_id] = route
    mine = offers[driver_id]
    scores = {
        name: _score(offer.price - pricing.ideal(name, order_id), rules) for name, offer in offers.items()
    }
    ranked = sorted(offers, key=lambda name: (offers[name].price, name))
    others = [name for name in ranked if name != driver_id]
    mates = [order.order_id for order in route if order.order_id != order_id]
    return Assignment(
        order_id,
        driver_id,
        scores[driver_id],
        mine.pickup_s,
        mine.delivery_s,
        mine.price_s,
        explain.reasons(pricing.orders[order_id], pricing.couriers[driver_id], mine, mates, offers, others),
        tuple((name, scores[name]) for name in others[: rules.alternatives]),
    )


def _score(lost: int, rules: Rules) -> float:
    """100 if nothing is lost against a courier who stands there in time; halved per `half_score_s` lost."""
    lost_s = max(0.0, lost / DEFAULT_WEIGHTS.duration_per_s)
    return round(100.0 * math.exp2(-lost_s / rules.half_score_s), 1)
