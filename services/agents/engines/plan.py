"""What is good and bad about a plan of deliveries."""

from collections.abc import Iterable, Sequence
from typing import Final

from waymesh.agent.v1.task_pb2 import CourierRoute, DeliveryPlan

from services.agents.engines.standing import standing
from services.agents.engines.words import (
    clock,
    courier,
    kilometres,
    listed,
    minutes,
    number,
    order,
    paragraph,
    percent,
)
from services.agents.tools.sentences import engine_text

_RISKY: Final = 0.8
_LONG_WAIT_MIN: Final = 5.0
_LATE_MIN: Final = 0.5


def critique(
    plans: Iterable[DeliveryPlan], routes: Iterable[CourierRoute] = (), *, committed: bool = True
) -> str:
    """Who carries what, what is at risk, and what stands out. Every number is the plan's.

    `committed`: the orders have been given to the couriers; else that is said to be a proposal.
    """
    plans, routes = list(plans), list(routes)
    if not plans:
        return "There are no orders to plan."
    told = [
        *_carried(plans, "carries" if committed else "would carry"),
        *_waiting(plans),
        _at_risk(plans),
        _late(routes),
        _long_waits(routes),
        _concentration(plans),
        *_ways(routes),
        _unknown(plans),
        "" if committed else "nothing was changed",
    ]
    return paragraph(told)


def _has_courier(plan: DeliveryPlan) -> bool:
    return plan.HasField("allocation") and bool(plan.allocation.assigned_driver_id)


def _carried(plans: Sequence[DeliveryPlan], does: str) -> list[str]:
    return [_who(plan, does) for plan in plans if _has_courier(plan)]


def _who(plan: DeliveryPlan, does: str) -> str:
    allocation = plan.allocation
    told = f"{courier(allocation.assigned_driver_id)} {does} {order(plan.order_id)}"
    told += f" with a score of {number(allocation.allocation_score)}"
    if allocation.HasField("estimated_pickup_time") and clock(allocation.estimated_pickup_time):
        told += f", at the pickup at {clock(allocation.estimated_pickup_time)}"
    if plan.HasField("prediction"):
        told += f", at the door in {minutes(plan.prediction.delivery_eta_minutes)}"
    others = {other.driver_id for other in allocation.alternative_drivers}
    why = engine_text(allocation.reasoning[0], others) if allocation.reasoning else ""
    return f"{told}; route's reason: {why}" if why else told


def _waiting(plans: Sequence[DeliveryPlan]) -> list[str]:
    return [_left(plan) for plan in plans if not _has_courier(plan)]


def _left(plan: DeliveryPlan) -> str:
    """Why an order is given to nobody: not every one of them waits."""
    stands = standing(plan.order_id, plan.unallocated_reason)
    if stands:
        return f"{stands}: there is nothing to plan"
    why = engine_text(plan.unallocated_reason) or "the engine gave no reason"
    return f"{order(plan.order_id)} has no courier: {why}"


def _at_risk(plans: Sequence[DeliveryPlan]) -> str:
    risky = [
        f"{order(plan.order_id)}, with a chance of {percent(plan.prediction.promise_probability)}"
        for plan in plans
        if plan.HasField("prediction")
        and plan.prediction.HasField("promise_probability")
        and plan.prediction.promise_probability < _RISKY
    ]
    if risky:
        return f"promised windows at risk: {'; '.join(risky)}"
    promised = any(plan.prediction.HasField("promise_probability") for plan in plans)
    return "every promised window that is known is likely to be kept" if promised else ""


def _late(routes: Sequence[CourierRoute]) -> str:
    late = [
        f"{order(stop.order_id)} by {minutes(stop.lateness_minutes)}"
        for route in routes
        for stop in route.plan.stops
        if stop.lateness_minutes >= _LATE_MIN
    ]
    return f"late on these routes: {listed(late)}" if late else ""


def _long_waits(routes: Sequence[CourierRoute]) -> str:
    waits = [
        f"{courier(route.driver_id)} waits {minutes(stop.wait_minutes)} for {order(stop.order_id)}"
        for route in routes
        for stop in route.plan.stops
        if stop.wait_minutes >= _LONG_WAIT_MIN
    ]
    return f"long waits: {listed(waits)}" if waits else ""


def _concentration(plans: Sequence[DeliveryPlan]) -> str:
    drivers = [plan.allocation.assigned_driver_id for plan in plans if _has_courier(plan)]
    if len(drivers) > 1 and len(set(drivers)) == 1:
        return f"everything depends on {courier(drivers[0])}: a delay there is a delay for all these orders"
    return ""


def _ways(routes: Sequence[CourierRoute]) -> list[str]:
    return [
        f"the route of {courier(route.driver_id)} takes {minutes(route.plan.duration_minutes)}"
        f" and {kilometres(route.plan.distance_m)}"
        for route in routes
        if route.plan.stops
    ]


def _unknown(plans: Sequence[DeliveryPlan]) -> str:
    missing = [
        order(plan.order_id) for plan in plans if _has_courier(plan) and not plan.HasField("prediction")
    ]
    if not missing:
        return ""
    times = "arrival times" if len(missing) > 1 else "arrival time"
    return f"the {times} of {listed(missing)} {'are' if len(missing) > 1 else 'is'} not known"
