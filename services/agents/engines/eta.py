"""Why an order arrives when it does."""

import math
import re
from collections.abc import Callable
from typing import Final

from waymesh.eta.v1.eta_pb2 import EtaPrediction, Factor, Leg
from waymesh.feedback.v1.delivery_pb2 import LegKind
from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.engines.words import (
    between,
    clock,
    courier,
    is_short,
    kilometres,
    listed,
    minutes,
    order,
    paragraph,
    percent,
    when,
)

# Factors that make less of a difference are not worth a word.
_LEAST_MIN: Final = 0.05
_MOST_FACTORS: Final = 4
_GOOD_CHANCE: Final = 0.8
_POOR_CHANCE: Final = 0.5

_LEGS: Final = {
    LegKind.LEG_KIND_ASSIGN: "finding a courier",
    LegKind.LEG_KIND_TO_PICKUP: "the way to the pickup",
    LegKind.LEG_KIND_WAIT: "waiting at the pickup",
    LegKind.LEG_KIND_TO_DESTINATION: "the way to the customer",
    LegKind.LEG_KIND_HANDOVER: "handing over at the door",
}
# Each in the singular, for what it adds or saves.
_FACTORS: Final = {
    "traffic": "traffic",
    "weather": "the weather",
    "courier_pace": "the pace of this courier",
    "merchant": "the pace of this merchant and area",
    "batch": "sharing the trip with other orders",
    "pickup_correction": "experience from earlier pickups",
    "learned_correction": "experience from earlier deliveries",
    "steadiness": "staying close to the time given before",
}
_CHANGES: Final = {
    "traffic": "lighter traffic or a way around it",
    "weather": "better weather",
    "courier_pace": "a faster courier or vehicle",
    "merchant": "the merchant being quicker than usual",
    "batch": "fewer orders on the same trip",
}
_ASKS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("promise", (" late ", " lateness ", "promis", "on time", "in time", "window", "delay")),
    ("pickup", ("pick", "courier", "driver", "merchant", "ready", "food", "kitchen", "restaurant")),
    ("range", ("sure", "certain", "confiden", "range", "earliest", "latest", "worst", "best case", "reliab")),
    ("legs", ("leg", "breakdown", "break down", "how far", "distance", "left", "remaining")),
    ("factors", ("why", "factor", "traffic", "weather", "slow", "so long", "too long")),
    ("change", ("faster", "sooner", "speed up", "change", "improve", "help", "what if", "could")),
)
# These count only where nothing else was asked: `When is it picked up?` is about the pickup.
_PLAIN_ASKS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("pickup", ("where", "status", "who ", "carries", "on its way", "on the way")),
    ("range", ("when", "arriv", "how long", "how soon", "what time", "minutes")),
)
_NO_WORD: Final = re.compile(r"[^\w']+")
_ORDER: Final = ("pickup", "range", "promise", "legs", "factors", "change")


def explain_eta(
    prediction: EtaPrediction,
    question: str = "",
    degradation: Degradation | None = None,
    *,
    courier_told: bool = False,
) -> str:
    """Why a prediction is as it is: what the question is about, all of it if that cannot be told.

    Every number is the prediction's. `courier_told`: the order and its courier were named just before.
    """
    told = [_headline(prediction, "it" if courier_told else order(prediction.order_id))]
    asked = _asked(question)
    if is_handed_over(prediction):
        return paragraph([*told, kept_promise(prediction), _fallback(degradation)])
    parts: dict[str, Callable[[EtaPrediction], str]] = {
        "pickup": lambda one: _pickup(one, courier_told=courier_told),
        "range": _range,
        "promise": lambda one: _promise(one, asked="promise" in asked),
        "legs": _legs,
        "factors": _factors,
        "change": _change,
    }
    told += [parts[name](prediction) for name in asked or _ORDER]
    return paragraph([*told, _fallback(degradation)])


def kept_promise(one: EtaPrediction) -> str:
    """Whether an order that was handed over came when it was promised; empty if nothing was."""
    if not one.HasField("promise_probability"):
        return ""
    return f"the promised window was {'kept' if one.promise_probability >= _POOR_CHANCE else 'missed'}"


def _asked(question: str) -> list[str]:
    """The parts that a question is about."""
    asked = f" {_NO_WORD.sub(' ', question.lower())} "
    found = [name for name, words in _ASKS if any(word in asked for word in words)]
    return found or [name for name, words in _PLAIN_ASKS if any(word in asked for word in words)]


def is_handed_over(one: EtaPrediction) -> bool:
    """Handed over: eta gives no legs, and no minutes to go."""
    return not one.legs and not one.factors and one.delivery_eta_minutes == 0 and one.base_minutes == 0


def _headline(one: EtaPrediction, name: str) -> str:
    at = when(one.delivery_eta) if one.HasField("delivery_eta") else ""
    if is_handed_over(one):
        return f"{name} was handed over{at}"
    expected = f"{name} is expected at the door{at}"
    if is_short(one.delivery_eta_minutes):
        return expected if at else f"{expected} right away"
    return f"{expected}{',' if at else ''} {minutes(one.delivery_eta_minutes)} after its last update"


def _pickup(one: EtaPrediction, *, courier_told: bool) -> str:
    who = courier(one.driver_id) if one.driver_id else ""
    at = f" at {clock(one.pickup_eta)}" if one.HasField("pickup_eta") and clock(one.pickup_eta) else ""
    if not one.HasField("pickup_eta_minutes"):
        # Absent minutes say that the order is on board.
        if courier_told:
            return f"it was picked up{at}" if at else ""
        picked = f"it was picked up{at}" if at else "it has been picked up"
        return f"{picked} and {who} is bringing it" if who else picked
    told = f"pickup is expected{at}"
    if not is_short(one.pickup_eta_minutes):
        told += f"{',' if at else ''} {minutes(one.pickup_eta_minutes)} after that update"
    elif not at:
        told += " right away"
    if one.HasField("pickup"):
        told += f" ({between(one.pickup.p10_minutes, one.pickup.p90_minutes)})"
    if courier_told:
        return told
    return f"{who} is to pick it up; {told}" if who else f"no courier has it yet; {told}"


def _range(one: EtaPrediction) -> str:
    sure = f"the confidence in this time is {percent(one.confidence)}"
    if not one.HasField("delivery"):
        return sure
    takes = between(one.delivery.p10_minutes, one.delivery.p90_minutes)
    return f"{sure}; the delivery takes {takes} (P10 to P90)"


def _promise(one: EtaPrediction, *, asked: bool) -> str:
    if not one.HasField("promise_probability"):
        return "no window was promised" if asked else ""
    chance = one.promise_probability
    told = f"the chance of keeping the promised window is {percent(chance)}"
    if chance >= _GOOD_CHANCE:
        return f"{told}: it is likely to be kept"
    if chance < _POOR_CHANCE:
        return f"{told}: it will probably be missed"
    return f"{told}: it is at risk"


def _legs(one: EtaPrediction) -> str:
    told = [_leg(leg) for leg in one.legs if leg.kind in _LEGS]
    return f"still to come: {listed(told)}" if told else ""


def _leg(leg: Leg) -> str:
    way = f", {kilometres(leg.distance_m)}" if leg.distance_m >= 1 else ""
    return f"{_LEGS[leg.kind]} ({minutes(leg.minutes)}{way})"


def _worth(one: EtaPrediction) -> list[Factor]:
    telling = [
        each for each in one.factors if math.isfinite(each.minutes) and abs(each.minutes) >= _LEAST_MIN
    ]
    return sorted(telling, key=lambda each: -abs(each.minutes))[:_MOST_FACTORS]


def factor(name: str, effect_minutes: float) -> str:
    """What a circumstance adds or saves."""
    does = "adds" if effect_minutes > 0 else "saves"
    return f"{_FACTORS.get(name, 'another circumstance')} {does} {minutes(effect_minutes)}"


def _factors(one: EtaPrediction) -> str:
    told = [factor(each.name, each.minutes) for each in _worth(one)]
    if not told:
        return "nothing makes it longer or shorter than usual"
    usual = f"otherwise it would take {minutes(one.base_minutes)}; " if not is_short(one.base_minutes) else ""
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
    return "this prediction is second best: not all that makes the best one answered in time"
