"""Tool: the best order of stops of one courier."""

from typing import Annotated, Any

from pydantic import Field
from waymesh.route.v1.route_service_pb2 import OptimizeRouteRequest, OptimizeRouteResponse

from services.agents.tools import shapes
from services.agents.tools.desk import Desk, degraded
from services.agents.tools.sentences import engine_text
from services.agents.tools.signature import DriverId


async def optimize_route(
    desk: Desk,
    driver_id: DriverId,
    max_alternatives: Annotated[
        int | None, Field(description="Other good plans to show; null: 2.", ge=0, le=5)
    ] = None,
) -> dict[str, Any]:
    """The best order of stops for a courier and the orders the courier has: times, waits, lateness, distance,
    what changing the order of stops saves, and other good plans. Changes nothing."""
    desk.open_driver(driver_id)
    request = OptimizeRouteRequest(
        driver_id=driver_id, max_alternatives=2 if max_alternatives is None else max_alternatives
    )
    answer: OptimizeRouteResponse = await desk.route.OptimizeRoute(request)
    if desk.scope.gave_driver(driver_id):
        # A courier whom the caller named opens the orders on board; one who was only come upon does not.
        for stop in answer.plan.stops:
            desk.scope.learn_order(stop.order_id)
    ids = {stop.order_id for stop in answer.plan.stops if not desk.scope.may_see_order(stop.order_id)}
    best = answer.optimization
    told: dict[str, Any] = {
        "driver_id": desk.scope.shown_driver(driver_id),
        "stops": shapes.stops(answer.plan.stops, desk.scope),
        **shapes.plan(answer.plan),
        "time_savings_minutes": best.time_savings,
        "original_distance_m": best.original_distance_m,
        "optimized_distance_m": best.optimized_distance_m,
        "engine_text": engine_text(best.reason, ids),
        "alternatives": [
            {
                "extra_minutes": other.extra_minutes,
                "extra_distance_m": other.extra_distance_m,
                "engine_text": engine_text(other.reason, ids),
                **shapes.plan(other.plan),
            }
            for other in answer.alternatives
        ],
    }
    if answer.HasField("degradation"):
        told["degradation"] = degraded(answer.degradation)
    return told
