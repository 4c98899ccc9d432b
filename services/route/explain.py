"""Why: the sentences that go with allocations and routes. Pure."""

from collections.abc import Mapping, Sequence

from services.mesh.tenancy import plain
from services.route.fleet import CourierState, OrderWork
from services.route.pricing import Offer
from services.route.stops import Plan


def minutes(seconds: float) -> str:
    """Seconds as minutes for people."""
    return f"{seconds / 60:.1f} min"


def nobody(order: OrderWork, couriers: Sequence[CourierState], listed: bool) -> str:
    """Why no courier at all can carry an order."""
    if not couriers:
        return "no courier is on shift with a known position"
    if not any(courier.room for courier in couriers):
        return "every courier has as many orders as allowed"
    skilled = [courier for courier in couriers if order.skills <= courier.skills]
    if not skilled:
        return f"no courier has the skills {', '.join(sorted(order.skills))}"
    if not any(courier.capacity >= order.size for courier in skilled):
        return f"no courier has room for size {order.size:g}"
    if not listed:
        return "no courier within reach"
    return "no courier can take it within the limits of a route"


def held(ready_s: float, latest_arrival_s: float, hold_wait_s: float) -> str:
    """Why an order is held back although somebody could go."""
    return (
        f"held back: ready in {minutes(ready_s)}, a courier would be there in {minutes(latest_arrival_s)}; "
        f"given out when nobody has to stand longer than {minutes(hold_wait_s)}"
    )


def outbid() -> str:
    """Why an order waits that somebody could carry."""
    return "more orders than couriers have room for; others are older or more urgent"


def reasons(
    order: OrderWork,
    courier: CourierState,
    offer: Offer,
    mates: Sequence[str],
    offers: Mapping[str, Offer],
    others: Sequence[str],
) -> tuple[str, ...]:
    """Why this courier, most weighty first."""
    said: list[str] = []
    if order.promised_until is not None:
        if offer.lateness_s:
            said.append(f"{minutes(offer.lateness_s)} after the promised window")
        else:
            said.append("within the promised window")
    at_pickup = f"at the pickup in {minutes(offer.arrive_s)}"
    if offer.pickup_s > offer.arrive_s:
        at_pickup += f", food ready {minutes(offer.pickup_s - offer.arrive_s)} later"
    said.append(at_pickup)
    if mates:
        with_ = ", ".join(map(plain, mates))
        said.append(f"goes with {with_}: {minutes(offer.added_s)} more for the courier")
    if offer.added_lateness_s > offer.lateness_s:
        said.append(f"{minutes(offer.added_lateness_s - offer.lateness_s)} more lateness for other orders")
    if others:
        best = others[0]
        more = (offers[best].price - offer.price) / 100
        if more >= 0:
            said.append(f"{minutes(more)} of work cheaper than {plain(best)}, the next best")
        else:
            said.append(
                f"{plain(best)} would be {minutes(-more)} of work cheaper but is needed for another order"
            )
    else:
        said.append("nobody else can take it")
    if order.skills:
        said.append(f"has the skills {', '.join(sorted(order.skills))}")
    said.append(f"{courier.vehicle.name.lower()}, {len(mates) + 1} of {courier.most_orders} orders")
    return tuple(said)


def better_route(original: Plan, best: Plan) -> str:
    """Why another order of stops is recommended; empty if there is nothing to gain."""
    gains: list[str] = []
    if original.lateness_s - best.lateness_s >= 30:
        gains.append(f"{minutes(original.lateness_s - best.lateness_s)} less lateness")
    if original.duration_s - best.duration_s >= 30:
        gains.append(f"{minutes(original.duration_s - best.duration_s)} shorter")
    if original.distance_m - best.distance_m >= 100:
        gains.append(f"{(original.distance_m - best.distance_m) / 1000:.1f} km less way")
    if original.food_s - best.food_s >= 60:
        gains.append(f"food waits {minutes(original.food_s - best.food_s)} less")
    return ", ".join(gains)


def trade_off(best: Plan, other: Plan) -> str:
    """What speaks for an alternative, and what against it."""
    pro: list[str] = []
    contra: list[str] = []
    for gain, text in (
        (best.duration_s - other.duration_s, "{} quicker|{} slower"),
        (best.lateness_s - other.lateness_s, "{} less lateness|{} more lateness"),
        (best.food_s - other.food_s, "food waits {} less|food waits {} more"),
    ):
        if abs(gain) >= 6:
            better, worse = text.split("|")
            (pro if gain > 0 else contra).append((better if gain > 0 else worse).format(minutes(abs(gain))))
    way = best.distance_m - other.distance_m
    if abs(way) >= 10:
        (pro if way > 0 else contra).append(f"{abs(way) / 1000:.2f} km {'less' if way > 0 else 'more'} way")
    if not pro:
        return "as good in time and way" if not contra else f"another order of stops, but {', '.join(contra)}"
    return ", ".join(pro) + (f", but {', '.join(contra)}" if contra else "")
