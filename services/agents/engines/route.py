"""Why a courier makes stops in this order."""

import re
from typing import Final

from waymesh.route.v1.route_pb2 import RouteAlternative, RoutePlan, Stop, StopKind
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines.words import clock, courier, kilometres, listed, minutes, order, paragraph
from services.agents.tools.sentences import engine_text

_LEAST_MIN: Final = 0.05
_LEAST_M: Final = 1.0
_MOST_STOPS: Final = 24
_WHITHER: Final = re.compile(r"\b(?:where|stops?|next|which way|carr(?:y|ies))\b")
_TIME_OR_WAY: Final = re.compile(
    r" (?:shorter|quicker|slower|less way|more way)$|^as good in time and way$|^another order of stops$"
)
_MOST_ALTERNATIVES: Final = 3
_ASKS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("alternatives", ("alternativ", "other", "instead", "option", "trade")),
    ("late", ("late", "promis", "on time", "in time", "delay", "wait")),
    ("why", ("why", "reason", "better", "sav", "gain", "chang")),
    ("cost", ("how long", "how far", "distance", "duration", "km", "minutes")),
)
_ORDER: Final = ("why", "cost", "late", "alternatives")


def explain_route(response: OptimizeRouteResponse, question: str = "") -> str:
    """The order of stops and what the question is about: why, what it costs, and what else could be done.

    All of that if the question does not tell. Every number is the response's.
    """
    if not response.plan.stops:
        who = courier(response.optimization.driver_id)
        return paragraph([f"{who} has no stops to make", _fallback(response)])
    parts = {
        "why": _why(response),
        "cost": _cost(response.plan),
        "late": _lateness(response.plan),
        "alternatives": _alternatives(response),
    }
    asked = question.lower()
    first = [name for name, words in _ASKS if any(word in asked for word in words)]
    if not first and _WHITHER.search(asked):
        first = ["cost", "late"]
    told = [_stops(response), *(parts[name] for name in first or _ORDER)]
    return paragraph([*told, _fallback(response)])


def _stops(response: OptimizeRouteResponse) -> str:
    who = courier(response.optimization.driver_id)
    made = [_stop(stop) for stop in response.plan.stops[:_MOST_STOPS]]
    more = " and so on" if len(response.plan.stops) > _MOST_STOPS else ""
    return f"{who} should make these stops: {', then '.join(made)}{more}"


def _stop(stop: Stop) -> str:
    what = {StopKind.STOP_KIND_PICKUP: "pick up", StopKind.STOP_KIND_DROPOFF: "deliver"}.get(
        stop.kind, "serve"
    )
    at = f" at {clock(stop.time)}" if stop.HasField("time") and clock(stop.time) else ""
    return f"{what} {order(stop.order_id)}{at}"


def _why(response: OptimizeRouteResponse) -> str:
    best = response.optimization
    told = []
    if best.time_savings >= _LEAST_MIN:
        told.append(f"compared with the present order of stops this saves {minutes(best.time_savings)}")
    elif best.time_savings <= -_LEAST_MIN:
        told.append(f"this takes {minutes(best.time_savings)} longer than the present order of stops")
    shorter = best.original_distance_m - best.optimized_distance_m
    if abs(shorter) >= _LEAST_M and best.original_distance_m > 0:
        now, before = kilometres(best.optimized_distance_m), kilometres(best.original_distance_m)
        told.append(f"the way is {now} instead of {before}")
    reason = _besides(best.reason, said=bool(told))
    return "; ".join([*told, f"route's reason: {reason}"] if reason else told)


def _besides(reason: str, *, said: bool) -> str:
    """What an engine's reason says; without time and way if these were said."""
    reason = engine_text(reason)
    if not said:
        return reason
    parts = [part.removeprefix("but ") for part in reason.split(", ")]
    return ", ".join(part for part in parts if not _TIME_OR_WAY.search(part))


def _cost(plan: RoutePlan) -> str:
    return f"in all it takes {minutes(plan.duration_minutes)} and {kilometres(plan.distance_m)}"


def _lateness(plan: RoutePlan) -> str:
    told = []
    late = [
        f"{order(stop.order_id)} by {minutes(stop.lateness_minutes)}"
        for stop in plan.stops
        if stop.lateness_minutes >= _LEAST_MIN
    ]
    told.append(f"late: {listed(late)}" if late else "nothing is late")
    waits = [
        f"{minutes(stop.wait_minutes)} for {order(stop.order_id)}"
        for stop in plan.stops
        if stop.wait_minutes >= _LEAST_MIN
    ]
    if waits:
        told.append(f"the courier waits {listed(waits)}")
    if plan.food_wait_minutes >= _LEAST_MIN:
        told.append(f"food waits {minutes(plan.food_wait_minutes)} over all orders")
    return "; ".join(told)


def _alternatives(response: OptimizeRouteResponse) -> str:
    if not response.alternatives:
        return "no other plan is better in time or distance"
    told = [_alternative(each) for each in response.alternatives[:_MOST_ALTERNATIVES]]
    return f"other good plans: {'; or '.join(told)}"


def _alternative(other: RouteAlternative) -> str:
    begins = f"starting with {order(other.plan.stops[0].order_id)}, " if other.plan.stops else ""
    time = _more(other.extra_minutes, minutes, "slower", "faster", _LEAST_MIN)
    way = _more(other.extra_distance_m, kilometres, "further", "shorter", _LEAST_M)
    differs = listed([each for each in (time, way) if each]) or "as good in time and way"
    reason = _besides(other.reason, said=True)
    return f"{begins}{differs}" + (f" ({reason})" if reason else "")


def _more(value: float, said: "object", more: str, less: str, least: float) -> str:
    if abs(value) < least or not callable(said):
        return ""
    return f"{said(value)} {more if value > 0 else less}"


def _fallback(response: OptimizeRouteResponse) -> str:
    if not response.HasField("degradation"):
        return ""
    return "the travel times are second best: those by road could not be had in time"
