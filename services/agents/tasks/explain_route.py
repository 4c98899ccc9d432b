"""explain_route: route finds the order of stops; a model or a template says why."""

from typing import Final

from waymesh.agent.v1.task_pb2 import ExplainRouteRequest, ExplainRouteResponse

from services.agents import engines
from services.agents.ladder import worse
from services.agents.loop import Brief
from services.agents.tasks.context import Context, EngineAway
from services.agents.tools import Scope

NAME: Final = "explain_route"
AGENT: Final = "route"
_ASK: Final = "Explain to the dispatcher why the stops are made in this order."
# Wording a route takes no call.
_WORDING_S: Final = 0.05
_AWAY: Final = "No route can be given: the engine that plans did not answer. Please ask again in a moment."


def scope_of(request: ExplainRouteRequest, scope: Scope) -> None:
    """What the request names may be looked at."""
    route = request.route
    scope.order_ids.update(order.order_id for order in route.orders)
    scope.driver_ids.update(one for one in (route.driver_id, route.courier.driver_id) if one)
    scope.words = request.question


async def run(request: ExplainRouteRequest, context: Context) -> ExplainRouteResponse:
    """Raises the caller's faults as route told them: an unknown courier, limits that cannot be kept."""
    journal = context.journal
    try:
        reply = await context.engine(
            "route.optimize_route", lambda: context.peers.route.OptimizeRoute(request.route)
        )
    except EngineAway as away:
        return ExplainRouteResponse(
            run_id=context.run_id, explanation=_AWAY, usage=journal.usage, degradation=away.degradation
        )
    brief = Brief(NAME, request.question or _ASK, {"route": reply}, words_count=False)

    async def template() -> str:
        return engines.explain_route(reply, request.question)

    words = await context.words(brief, template, engine_s=_WORDING_S)
    engine = reply.degradation if reply.HasField("degradation") else None
    return ExplainRouteResponse(
        run_id=context.run_id,
        explanation=words.text,
        optimization=reply.optimization,
        plan=reply.plan,
        alternatives=reply.alternatives,
        usage=journal.usage,
        degradation=worse(engine, words.degradation),
    )
