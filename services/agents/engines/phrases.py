"""Results of tools as sentences."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines.eta import explain_eta
from services.agents.engines.route import explain_route
from services.agents.engines.words import (
    courier,
    kilometres,
    listed,
    minutes,
    number,
    order,
    percent,
    sentence,
)
from services.agents.tools import ToolOutcome
from services.mesh import json_codec

_WHAT: Final = {
    "get_order": "the order",
    "optimize_route": "the route",
    "allocate_drivers": "the couriers",
    "get_traffic_data": "the traffic",
    "calculate_delivery_time": "the time of delivery",
    "find_similar_deliveries": "similar deliveries",
    "recent_outcomes": "recent outcomes",
    "weather": "the weather",
}
_STATUS: Final = {
    "placed": "waits for a courier",
    "assigned": "has a courier",
    "picked_up": "is on its way to the customer",
    "delivered": "was delivered",
    "cancelled": "was cancelled",
}
_REASONS: Final = {
    "ORDER_UNKNOWN": "no such order is known",
    "COURIER_UNKNOWN": "no such courier is known",
    "POSITION_UNKNOWN": "no position of the courier is known yet",
    "NO_FEASIBLE_PLAN": "no route keeps all limits",
    "NOT_READ_YET": "the order is not known yet; it may be soon",
    "TOOL_REFUSED": "this question does not allow to look at that",
    "STATUS_CONFLICT": "its status does not allow that",
}


def phrase(outcome: ToolOutcome, question: str = "") -> str:
    """What came of a call, in words."""
    if outcome.result is None or "error" in outcome.result:
        return failure(outcome)
    return _PHRASES[outcome.name](outcome.result, outcome.arguments, question)


def failure(outcome: ToolOutcome) -> str:
    """That nothing can be said, and why."""
    reason = outcome.error.reason_name if outcome.error is not None else ""
    what = _WHAT.get(outcome.name, "that")
    subject = str(outcome.arguments.get("order_id") or outcome.arguments.get("driver_id") or "")
    if subject:
        what = order(subject) if "order_id" in outcome.arguments else courier(subject)
    why = _REASONS.get(reason)
    if why is not None:
        return sentence(f"about {what} nothing can be said: {why}")
    return sentence(f"about {what} nothing can be said now: whoever knows it did not answer")


def _order(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    told: list[str] = []
    found = result.get("order")
    name = order(str(arguments.get("order_id", "")))
    if found is not None:
        told.append(f"{name} {_STATUS.get(found['status'], 'is known')}")
    else:
        told.append(f"the record of {name} could not be read now")
    predicted = result.get("prediction")
    if predicted is not None:
        source = result.get("degradation")
        told.append(
            explain_eta(
                _prediction(predicted, str(arguments.get("order_id", ""))),
                question,
                Degradation(**source) if source else None,
            )
        )
    elif result.get("prediction_missing") not in ("STATUS_CONFLICT", None):
        told.append("when it arrives cannot be said now")
    reasons = (result.get("allocation") or {}).get("engine_text")
    if reasons and "why" in question.lower():
        told.append(f"its courier was chosen because of this: {'; '.join(reasons[:2])}")
    return " ".join(sentence(each) for each in told)


def _prediction(told: Mapping[str, Any], order_id: str) -> EtaPrediction:
    plain = {name: value for name, value in told.items() if value is not None}
    if plain.get("driver_id") == "another courier":
        plain["driver_id"] = ""
    return json_codec.from_dict(EtaPrediction, plain | {"order_id": order_id}, unknown="ignore")


def _route(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    plan = {name: value for name, value in result.items() if name in _PLAN}
    answer: dict[str, Any] = {
        "plan": plan,
        "optimization": {
            "driver_id": str(arguments.get("driver_id", "")),
            "time_savings": result["time_savings_minutes"],
            "reason": result["engine_text"],
            "original_distance_m": result["original_distance_m"],
            "optimized_distance_m": result["optimized_distance_m"],
        },
        "alternatives": [
            {
                "plan": {name: value for name, value in each.items() if name in _PLAN},
                "extra_minutes": each["extra_minutes"],
                "extra_distance_m": each["extra_distance_m"],
                "reason": each["engine_text"],
            }
            for each in result["alternatives"]
        ],
    }
    if "degradation" in result:
        answer["degradation"] = result["degradation"]
    return explain_route(json_codec.from_dict(OptimizeRouteResponse, answer, unknown="ignore"), question)


_PLAN: Final = frozenset({"stops", "duration_minutes", "distance_m", "lateness_minutes", "food_wait_minutes"})


def _allocation(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    told = []
    for each in result["allocations"]:
        why = f": {'; '.join(each['engine_text'][:3])}" if each["engine_text"] else ""
        who, what = courier(each["assigned_driver_id"]), order(each["order_id"])
        told.append(f"{who} would carry {what} with a match of {number(each['allocation_score'])}{why}")
    told += [
        f"{order(each['order_id'])} would have to wait: {each['engine_text'] or 'no reason was given'}"
        for each in result["unallocated"]
    ]
    if not told:
        return "None of these orders waits for a courier."
    return " ".join(sentence(each) for each in [*told, "nothing was changed"])


def _traffic(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    told = []
    for each in result["options"]:
        vehicle = each["vehicle"].replace("_", " ")
        takes = minutes(each["duration_minutes"])
        line = f"by {vehicle} the way is {kilometres(each['distance_m'])} and takes {takes}"
        if "speed_kph" in each:
            line += f", at {number(each['speed_kph'])} km/h"
        if "traffic_factor" in each:
            line += f"; traffic makes it {each['traffic_factor']:.2f} times as long as on free roads"
        told.append(line)
    if not any("traffic_factor" in each for each in result["options"]):
        told.append("what traffic adds at this hour is not known")
    return " ".join(sentence(each) for each in [*told, _second_best(result)])


def _delivery_time(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    quantiles = result["delivery"]
    told = [
        f"from pickup to handover it takes {minutes(result['delivery_minutes'])}, between"
        f" {minutes(quantiles['p10_minutes'])} and {minutes(quantiles['p90_minutes'])} from P10 to P90",
        f"from placing the order it takes {minutes(result['from_placement_minutes'])}",
    ]
    factors = [
        f"{each['name'].replace('_', ' ')}"
        f" {'adds' if each['minutes'] > 0 else 'saves'} {minutes(each['minutes'])}"
        for each in result["factors"]
        if abs(each["minutes"]) >= 0.05
    ]
    if factors:
        told.append(listed(factors))
    if "traffic_factor" in result:
        told.append(
            f"traffic is taken as {result['traffic_level']}, which makes the way"
            f" {result['traffic_factor']:.2f} times as long"
        )
    return " ".join(sentence(each) for each in [*told, _second_best(result)])


def _similar(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    if not result["known"]:
        return "There are too few similar deliveries to say how they went."
    actual = result["actual"]
    return " ".join(
        sentence(each)
        for each in (
            f"{result['count']} similar deliveries (by {listed(result['similar_by'])}) took"
            f" {minutes(actual['p50_minutes'])} in the median, {minutes(actual['p10_minutes'])} to"
            f" {minutes(actual['p90_minutes'])} from P10 to P90",
            f"predictions were off by {minutes(result['mean_absolute_error_minutes'])} on average, and"
            f" {percent(result['late_share'])} came later than predicted",
        )
    )


def _outcomes(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    name = result["agent_name"]
    status = arguments.get("status")
    kind = f" with status {status}" if status else ""
    if not result["outcomes"]:
        return sentence(f"of {name} no recent outcomes{kind} are known")
    newest = result["outcomes"][0]
    told = f"of {name} the last {result['count']} outcomes{kind} are known; newest: {newest['timestamp']}"
    counts = [f"{count} {status}" for status, count in result["count_by_status"].items()]
    if not status:
        told += f"; they ended so: {listed(counts)}"
    errors = dict.fromkeys(row["error_type"] for row in result["outcomes"] if "error_type" in row)
    if errors:
        told += f"; kinds of errors: {listed(list(errors)[:5])}"
    return sentence(told)


def _weather(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    if not result["known"]:
        return sentence(f"the weather is not known: {result['why']}")
    told = f"the weather is {result['condition']}"
    if "temperature_c" in result:
        told += f", {number(result['temperature_c'])} °C"
    if "wind_kph" in result:
        told += f", wind {number(result['wind_kph'])} km/h"
    return sentence(f"{told}, by the {result['source']}")


def _second_best(result: Mapping[str, Any]) -> str:
    return "these times are second best: the best could not be had in time" if "degradation" in result else ""


_PHRASES: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any], str], str]]] = {
    "get_order": _order,
    "optimize_route": _route,
    "allocate_drivers": _allocation,
    "get_traffic_data": _traffic,
    "calculate_delivery_time": _delivery_time,
    "find_similar_deliveries": _similar,
    "recent_outcomes": _outcomes,
    "weather": _weather,
}
