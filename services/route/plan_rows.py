"""How a plan is kept: the stops as told, and the ends of the leg under way. Pure."""

from services.route.bodies import to_body
from services.route.fleet import OrderWork
from services.route.stops import Kind, Plan
from services.route.store import PlanWrite
from services.route.translate import route_plan
from services.route.travel import Place


def plan_write(
    driver_id: str, start: Place, orders: tuple[OrderWork, ...], plan: Plan, start_at: float
) -> PlanWrite:
    """The row of a plan that has at least one stop; `start_at` in epoch seconds."""
    first = plan.visits[0]
    order = orders[first.job]
    target = order.pickup if first.kind is Kind.PICKUP else order.dropoff
    return PlanWrite(
        driver_id,
        len(orders),
        (start.lat, start.lon),
        (target.lat, target.lon),
        to_body(route_plan(plan, orders, start_at), driver_id),
    )
