"""Results of tools as sentences."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import EtaPrediction
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.route.v1.route_service_pb2 import OptimizeRouteResponse

from services.agents.engines.eta import explain_eta, factor, is_handed_over, kept_promise
from services.agents.engines.route import explain_route
from services.agents.engines.standing import standing
from services.agents.engines.words import (
    agent,
    between,
    counted,
    courier,
    is_short,
    kilometres,
    listed,
    minutes,
    number,
    order,
    paragraph,
    percent,
    sentence,
    when,
)
from services.agents.recorded_names import PREFIX, SERVICES
from services.agents.tools import ToolOutcome
from services.mesh import json_codec

_WHAT: Final = {
    "get_order": "the order",
    "optimize_route": "the route",
    "allocate_drivers": "who could carry that",
    "get_traffic_data": "the way",
    "calculate_delivery_time": "the time of delivery",
    "find_similar_deliveries": "how such deliveries went",
    "recent_outcomes": "what agents did of late",
    "weather": "the weather",
}
# With the courier if he is known, and the time of the delivery.
_STATUS: Final = {
    "placed": ("is waiting for a courier", ""),
    "assigned": ("has a courier", "is assigned to {courier}"),
    "picked_up": ("is on its way to the customer", "is on its way to the customer with {courier}"),
    "delivered": ("was delivered{at}", "was delivered by {courier}{at}"),
    "cancelled": ("was cancelled", ""),
}
_UNKNOWN: Final = frozenset({"ORDER_UNKNOWN", "COURIER_UNKNOWN"})
_REASONS: Final = {
    "POSITION_UNKNOWN": "the position of the courier is not known yet",
    "NO_FEASIBLE_PLAN": "no route keeps all limits",
    "NOT_READ_YET": "what is known of it has not been read yet",
    "TOOL_REFUSED": "the question has to name it",
    "STATUS_CONFLICT": "its status does not allow that",
}
_ADJECTIVES: Final = {
    "success": "successful",
    "failure": "failed",
    "partial": "partly successful",
    "timeout": "timed-out",
    "cancelled": "cancelled",
}
_CONDITIONS: Final = {
    "fog": "foggy",
    "rain": "rainy",
    "storm": "stormy",
    "snow": "snowy",
    "sandstorm": "a sandstorm",
}
_SOURCES: Final = {"order": "according to the order", "forecast": "by forecast", "observation": "as observed"}


def phrase(outcome: ToolOutcome, question: str = "", *, acting: bool = False) -> str:
    """What came of a call, in words. `acting`: that nothing was changed has been said, or is not so."""
    if outcome.result is None or "error" in outcome.result:
        return failure(outcome)
    if acting and outcome.name == "allocate_drivers":
        return _allocated(outcome.result)
    return _PHRASES[outcome.name](outcome.result, outcome.arguments, question)


def failure(outcome: ToolOutcome) -> str:
    """That nothing can be said, and why."""
    reason = outcome.error.reason_name if outcome.error is not None else ""
    what = _subject(outcome) or _WHAT.get(outcome.name, "that")
    if reason in _UNKNOWN:
        return sentence(f"{what if _subject(outcome) else 'one of these orders'} is not known")
    why = _REASONS.get(reason)
    if why is not None:
        return sentence(f"nothing can be said about {what}: {why}")
    return sentence(f"nothing can be said about {what} now: whoever knows it did not answer")


def nobody(outcome: ToolOutcome) -> str:
    """That what may have been an order or a courier is neither."""
    asked = str(outcome.arguments.get("order_id") or outcome.arguments.get("driver_id") or "")
    return sentence(f"neither {order(asked)} nor {courier(asked)} is known")


def _subject(outcome: ToolOutcome) -> str:
    """The one order or courier that a call was about."""
    arguments = outcome.arguments
    several = arguments.get("order_ids") or []
    order_id = arguments.get("order_id") or (several[0] if len(several) == 1 else "")
    if order_id:
        return order(str(order_id))
    return courier(str(arguments["driver_id"])) if arguments.get("driver_id") else ""


def adjective(status: object) -> str:
    """The word for outcomes of a status, with a blank behind it; empty for those of any."""
    word = _ADJECTIVES.get(str(status), "")
    return f"{word} " if word else ""


def is_idle(outcome: ToolOutcome) -> bool:
    """Whether this says that nothing is known of an agent."""
    return outcome.name == "recent_outcomes" and outcome.result is not None and not outcome.result["outcomes"]


def none_known(idle: Sequence[ToolOutcome]) -> str:
    """That nothing is known of these agents, in one sentence."""
    results = [one.result for one in idle if one.result is not None]
    names = [agent(str(result["agent_name"])) for result in results]
    if not names:
        return ""
    kinds = {
        "agent": [name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)],
        "service": [name for name in names if name in SERVICES],
    }
    groups = [f"of {kind}{'s' if len(of) > 1 else ''} {listed(of)}" for kind, of in kinds.items() if of]
    groups += [f"of {_agent(name)}" for name in names if _agent(name) == name]
    return f"no recent {adjective(idle[0].arguments.get('status'))}outcomes {listed(groups)} are known"


def _agent(recorded: str) -> str:
    """Whose outcomes are told; a service and an agent may have the same name."""
    name = agent(recorded)
    if name.startswith(PREFIX):
        return f"agent {name.removeprefix(PREFIX)}"
    return f"service {name}" if name in SERVICES else name


def _order(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    order_id = str(arguments.get("order_id", ""))
    name, found, predicted = order(order_id), result.get("order"), result.get("prediction")
    prediction = None if predicted is None else _prediction(predicted, order_id)
    told: list[str] = []
    driver = ""
    if found is None:
        told.append(f"the record of {name} could not be read now")
    else:
        driver = _driver(found, prediction)
        told.append(f"{name} {_state(found, prediction, driver)}")
    if prediction is not None and found is not None and found["status"] == "delivered":
        told.append(kept_promise(prediction))
    elif prediction is not None:
        source = result.get("degradation")
        degradation = Degradation(**source) if source else None
        known = found is not None and bool(driver or found["status"] == "placed")
        told.append(explain_eta(prediction, question, degradation, courier_told=known))
    elif result.get("prediction_missing") not in ("STATUS_CONFLICT", None):
        told.append("when it arrives cannot be said now")
    reasons = (result.get("allocation") or {}).get("engine_text")
    if reasons and re.search(r"why.{0,80}(?:courier|driver|rider|carr)", question, re.IGNORECASE):
        told.append(f"its courier was chosen for this: {'; '.join(reasons[:2])}")
    return paragraph(told)


def _driver(found: Mapping[str, Any], prediction: EtaPrediction | None) -> str:
    """Who has the order, as far as that may be said."""
    driver = str(found.get("driver_id") or ("" if prediction is None else prediction.driver_id))
    return courier(driver) if driver and driver != "another courier" else ""


def _state(found: Mapping[str, Any], prediction: EtaPrediction | None, driver: str) -> str:
    alone, with_courier = _STATUS.get(found["status"], ("is known", ""))
    at = _at(found.get("delivered_at"))
    if not at and prediction is not None and is_handed_over(prediction):
        at = when(prediction.delivery_eta)
    return (with_courier if driver and with_courier else alone).format(courier=driver, at=at)


def _at(time: object) -> str:
    """` at 19:53 UTC on 2026-11-21` of a time in RFC 3339; empty if there is none."""
    stamp = Timestamp()
    try:
        stamp.FromJsonString(str(time or ""))
    except ValueError:
        return ""
    return when(stamp)


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
    return f"{_allocated(result)} Nothing was changed."


def _allocated(result: Mapping[str, Any]) -> str:
    told = []
    for each in result["allocations"]:
        why = f": {'; '.join(each['engine_text'][:3])}" if each["engine_text"] else ""
        who, what = courier(each["assigned_driver_id"]), order(each["order_id"])
        out_of = each.get("allocation_score_out_of")
        score = number(each["allocation_score"]) + (f" out of {number(out_of)}" if out_of else "")
        told.append(f"{who} would carry {what}, with a score of {score}{why}")
    told += [_left(each) for each in result["unallocated"]]
    return paragraph(told or ["none of these orders is waiting for a courier"])


def _left(one: Mapping[str, Any]) -> str:
    """Why an order is given to nobody: not every one of them waits."""
    why = one["engine_text"]
    stands = standing(one["order_id"], why)
    if stands:
        return f"{stands}, so no courier is looked for"
    return f"{order(one['order_id'])} would have to wait: {why or 'no reason was given'}"


def _traffic(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    told = []
    for each in result["options"]:
        vehicle = "on foot" if each["vehicle"] == "walking" else f"by {each['vehicle'].replace('_', ' ')}"
        takes = minutes(each["duration_minutes"])
        line = f"{vehicle} the way is {kilometres(each['distance_m'])} and takes {takes}"
        if "speed_kph" in each:
            line += f", at {number(each['speed_kph'])} km/h"
        if "traffic_factor" in each:
            line += f"; traffic makes it {each['traffic_factor']:.2f} times as long as on free roads"
        told.append(line)
    if not any("traffic_factor" in each for each in result["options"]):
        told.append("what traffic adds at this hour is not known")
    return paragraph([*told, _second_best(result)])


def _delivery_time(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    quantiles = result["delivery"]
    told = [
        f"from pickup to handover it takes {minutes(result['delivery_minutes'])},"
        f" {between(quantiles['p10_minutes'], quantiles['p90_minutes'])} (P10 to P90)",
        f"from placing the order it takes {minutes(result['from_placement_minutes'])}",
        listed([factor(each["name"], each["minutes"]) for each in result["factors"] if _counts(each)]),
    ]
    if "traffic_factor" in result:
        told.append(
            f"traffic is taken as {result['traffic_level']}, which makes the way"
            f" {result['traffic_factor']:.2f} times as long"
        )
    return paragraph([*told, _second_best(result)])


def _counts(effect: Mapping[str, Any]) -> bool:
    return not is_short(effect["minutes"])


def _similar(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    which = "the same" if arguments.get("order_id") else "this"
    by = [
        told.format(which=which)
        for name, told in (
            ("merchant", "of {which} merchant"),
            ("area", "in {which} area"),
            ("hour", "at {which} time of day"),
        )
        if name in result["similar_by"]
    ]
    if not result["known"]:
        return sentence(" ".join(["too few recent deliveries", *by, "are known to say how they went"]))
    actual = result["actual"]
    late = percent(result["late_share"])
    return paragraph(
        [
            " ".join([counted(result["count"], "recent delivery"), *by])
            + f" took {minutes(actual['p50_minutes'])} in the median,"
            f" {between(actual['p10_minutes'], actual['p90_minutes'])} (P10 to P90)",
            f"predictions were off by {minutes(result['mean_absolute_error_minutes'])} on average, and"
            f" {late} of the deliveries came later than predicted",
        ]
    )


def _outcomes(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    rows = result["outcomes"]
    if not rows:
        return ""  # told of all such agents at once
    # Of a single one its kind is said at once.
    status = arguments.get("status") or (rows[0]["status"] if len(rows) == 1 else None)
    told = counted(result["count"], f"recent {adjective(status)}outcome")
    told += f" of {_agent(result['agent_name'])} {'is' if result['count'] == 1 else 'are'} known"
    if not status:
        counts = result["count_by_status"].items()
        ended = [f"{count} {adjective(each).strip() or 'other'}" for each, count in counts]
        told += f": {listed(ended)}"
    newest = _at(rows[0]["timestamp"])
    if newest:
        told += (
            f"{';' if not status else ','} {'' if result['count'] == 1 else 'the newest '}{newest.strip()}"
        )
    errors = list(dict.fromkeys(row["error_type"] for row in rows if "error_type" in row))[:5]
    if errors:
        told += f"; {'kind' if len(errors) == 1 else 'kinds'} of error: {listed(errors)}"
    return sentence(told)


def _weather(result: Mapping[str, Any], arguments: Mapping[str, Any], question: str) -> str:
    if not result["known"]:
        return sentence(f"the weather is not known: {result['why']}")
    told = f"the weather is {_CONDITIONS.get(result['condition'], result['condition'])}"
    if "temperature_c" in result:
        told += f", {number(result['temperature_c'])} °C"
    if "wind_kph" in result:
        told += f", wind {number(result['wind_kph'])} km/h"
    return sentence(f"{told}, {_SOURCES.get(result['source'], 'as far as is known')}")


def _second_best(result: Mapping[str, Any]) -> str:
    return (
        "these times are second best: better ones could not be had in time" if "degradation" in result else ""
    )


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
