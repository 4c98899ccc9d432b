"""Why an order arrives when it does."""

import math
from collections.abc import Callable
from typing import Final

from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg, Quantiles
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.engines.words import (
    clock,
    courier,
    day,
    kilometres,
    listed,
    minutes,
    order,
    percent,
    sentence,
)

# Factors that make less of a difference are not worth a word.
_LEAST_MIN: Final = 0.05
_MOST_FACTORS: Final = 4
_GOOD_CHANCE: Final = 0.8
_POOR_CHANCE: Final = 0.5

_LEGS: Final = {
    LegKind.LEG_KIND_ASSIGN: "until a courier has the order",
    LegKind.LEG_KIND_TO_PICKUP: "the way to the pickup",
    LegKind.LEG_KIND_WAIT: "waiting at the pickup",
    LegKind.LEG_KIND_TO_DESTINATION: "the way to the customer",
    LegKind.LEG_KIND_HANDOVER: "handing over at the door",
}
_FACTORS: Final = {
    "traffic": "traffic",
    "weather": "the weather",
    "courier_pace": "the pace of this courier",
    "merchant": "this merchant and area",
    "batch": "other orders on the same trip",
    "pickup_correction": "what was learned from earlier pickups",
    "learned_correction": "what was learned from earlier deliveries",
    "steadiness": "holding on to the time told before",
}
_CHANGES: Final = {
    "traffic": "lighter traffic or a way around it",
    "weather": "better weather",
    "courier_pace": "a faster courier or vehicle",
    "merchant": "the merchant being quicker than usual",
    "batch": "fewer orders on the same trip",
}
_ASKS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("promise", ("late", "promis", "on time", "in time", "window", "delay")),
    ("pickup", ("pick", "courier", "driver", "merchant", "ready", "food", "kitchen", "restaurant")),
    ("range", ("sure", "certain", "confiden", "range", "earliest", "latest", "worst", "best case", "reliab")),
    ("legs", ("leg", "breakdown", "break down", "how far", "distance", "left", "remaining")),
    ("factors", ("why", "factor", "traffic", "weather", "slow", "long")),
    ("change", ("faster", "sooner", "speed up", "change", "improve", "help", "what if", "could")),
)
_ORDER: Final = ("pickup", "range", "promise", "legs", "factors", "change")


def explain_eta(prediction: EtaPrediction, question: str = "", degradation: Degradation | None = None) -> str:
    """Why a prediction is as it is, what was asked for first. Every number is the prediction's."""
    told = [_headline(prediction)]
    if _is_done(prediction):
        if prediction.HasField("promise_probability"):
            kept = prediction.promise_probability >= _POOR_CHANCE
            told.append("the promised window was kept" if kept else "the promised window was missed")
        return _text([*told, _fallback(degradation)])
    parts: dict[str, Callable[[EtaPrediction], str]] = {
        "pickup": _pickup,
        "range": _range,
        "promise": _promise,
        "legs": _legs,
        "factors": _factors,
        "change": _change,
    }
    asked = question.lower()
    first = [name for name, words in _ASKS if any(word in asked for word in words)]
    told += [parts[name](prediction) for name in dict.fromkeys([*first, *_ORDER])]
    return _text([*told, _fallback(degradation)])


def _text(sentences: list[str]) -> str:
    return " ".join(sentence(each) for each in sentences if each)


def _is_done(one: EtaPrediction) -> bool:
    """Handed over: eta gives no legs, and no minutes to go."""
    return not one.legs and not one.factors and one.delivery_eta_minutes == 0 and one.base_minutes == 0


def _headline(one: EtaPrediction) -> str:
    name = order(one.order_id)
    at = f" at {clock(one.delivery_eta)} on {day(one.delivery_eta)}" if one.HasField("delivery_eta") else ""
    if _is_done(one):
        return f"{name} was handed over{at}" if at.strip() else f"{name} was handed over"
    left = minutes(one.delivery_eta_minutes)
    at = at if clock(one.delivery_eta) else ""
    if at:
        return f"{name} is expected at the door{at}, {left} after the last news of it"
    return f"{name} is expected at the door {left} after the last news of it"


def _pickup(one: EtaPrediction) -> str:
    who = courier(one.driver_id) if one.driver_id else ""
    at = clock(one.pickup_eta) if one.HasField("pickup_eta") else ""
    if not one.HasField("pickup_eta_minutes"):
        # Absent minutes say that the order is on board.
        picked = f"it was picked up at {at}" if at else "it is on board"
        return f"{picked}, {who} brings it" if who else picked
    told = f"pickup is expected in {minutes(one.pickup_eta_minutes)}"
    if at:
        told += f", at {at}"
    if one.HasField("pickup"):
        told += f", {_between(one.pickup)}"
    return f"{who} is to fetch it; {told}" if who else f"no courier has it yet; {told}"


def _range(one: EtaPrediction) -> str:
    sure = f"the confidence in this time is {percent(one.confidence)}"
    if not one.HasField("delivery"):
        return sure
    return f"{sure}; the delivery takes {_between(one.delivery)} from P10 to P90"


def _between(quantiles: Quantiles) -> str:
    low, high = minutes(quantiles.p10_minutes), minutes(quantiles.p90_minutes)
    if low == high:
        return low
    unit = " minutes"
    return f"{low.removesuffix(unit) if high.endswith(unit) else low} to {high}"


def _promise(one: EtaPrediction) -> str:
    if not one.HasField("promise_probability"):
        return ""
    chance = one.promise_probability
    told = f"the chance to keep the promised window is {percent(chance)}"
    if chance >= _GOOD_CHANCE:
        return f"{told}: it is likely to be kept"
    if chance < _POOR_CHANCE:
        return f"{told}: it will probably be missed"
    return f"{told}: it is at risk"


def _legs(one: EtaPrediction) -> str:
    told = [_leg(leg) for leg in one.legs if leg.kind in _LEGS]
    return f"still to come: {listed(told)}" if told else ""


def _leg(leg: Leg) -> str:
    way = f" for {kilometres(leg.distance_m)}" if leg.distance_m >= 1 else ""
    return f"{_LEGS[leg.kind]}, {minutes(leg.minutes)}{way}"


def _worth(one: EtaPrediction) -> list[Factor]:
    telling = [
        each for each in one.factors if math.isfinite(each.minutes) and abs(each.minutes) >= _LEAST_MIN
    ]
    return sorted(telling, key=lambda each: -abs(each.minutes))[:_MOST_FACTORS]


def _factors(one: EtaPrediction) -> str:
    told = [
        f"{_FACTORS.get(each.name, 'another circumstance')}"
        f" {'adds' if each.minutes > 0 else 'saves'} {minutes(each.minutes)}"
        for each in _worth(one)
    ]
    if not told:
        return "nothing special makes it longer or shorter than usual"
    usual = (
        f"without anything special it would take {minutes(one.base_minutes)}; "
        if one.base_minutes > 0
        else ""
    )
    return f"{usual}{listed(told)}"


def _change(one: EtaPrediction) -> str:
    ideas = [_CHANGES[each.name] for each in _worth(one) if each.minutes > 0 and each.name in _CHANGES]
    longest = max(one.legs, key=lambda leg: leg.minutes, default=None)
    if longest is not None and longest.kind == LegKind.LEG_KIND_WAIT:
        ideas.append("food that is ready earlier")
    if longest is not None and longest.kind == LegKind.LEG_KIND_ASSIGN:
        ideas.append("a courier who takes it at once")
    return f"it would come sooner with {' or '.join(ideas[:2])}" if ideas else ""


def _fallback(degradation: Degradation | None) -> str:
    if degradation is None or not degradation.source:
        return ""
    return "this prediction is second best, since what makes the best one could not be asked in time"
