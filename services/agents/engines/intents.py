"""Which tools a question points at: by the ids and places that stand in it, and a few plain words."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.agents.figures import Unit, numbers_in
from services.agents.tools import Scope
from services.agents.tools.outcomes import OWN
from services.agents.tools.scope import names

_MOST_CALLS: Final = 8
_MOST_IDS: Final = 4
# The longest unit, so far behind a number.
_UNIT_CHARS: Final = 12

_TOKEN: Final = r"[\w][\w.:@/#+~-]{0,126}[\w]|[\w]"
_ORDER: Final = re.compile(
    rf"\b(?:orders?|deliver(?:y|ies)|parcels?|packages?)\b(?:\s+(?:id|number|no\.?|named|called))?[\s:#=\"'`]*({_TOKEN})",
    re.IGNORECASE,
)
_COURIER: Final = re.compile(
    rf"\b(?:couriers?|drivers?|riders?)\b(?:\s+(?:id|number|no\.?|named|called))?[\s:#=\"'`]*({_TOKEN})",
    re.IGNORECASE,
)
_AND_MORE: Final = re.compile(rf"(?:\s*,\s*|\s+(?:and|or)\s+)[\"'`]?({_TOKEN})")
_ID: Final = re.compile(r"(?<![\w.-])(?=[\w.:@/#+~-]*\d)(?=[\w.:@/#+~-]*[^\W\d])[\w][\w.:@/#+~-]*[\w]")
# 2nd, P90: what has digits and letters, and is neither a number nor an id.
_NO_ID: Final = re.compile(r"\d+(?:st|nd|rd|th)|p\d\d|gpt-.*", re.IGNORECASE)
_PLACE: Final = re.compile(r"(?<![\d.])(-?\d{1,2}\.\d{1,8})\s*,\s*(-?\d{1,3}\.\d{1,8})(?![\d.])")
_DISTANCE: Final = re.compile(r"(\d+(?:\.\d+)?)\s?(km|kilomet(?:er|re)s?|m|met(?:er|re)s?)\b", re.IGNORECASE)
_FACTOR: Final = re.compile(
    r"(?:factor(?: of)?|×)\s*(\d+(?:\.\d+)?)|(\d+(?:\.\d+)?)\s*(?:×|x\b|times)", re.IGNORECASE
)
_VEHICLES: Final = {
    "on foot": "walking",
    "walking": "walking",
    "electric scooter": "electric_scooter",
    "e-scooter": "electric_scooter",
    "bicycle": "bicycle",
    "bike": "bicycle",
    "motor scooter": "scooter",
    "motorcycle": "motorcycle",
    "motorbike": "motorcycle",
    "scooter": "scooter",
    "car": "car",
}
_CONDITIONS: Final = {
    "sandstorm": "sandstorm",
    "thunder": "storm",
    "storm": "storm",
    "snow": "snow",
    "rain": "rain",
    "fog": "fog",
    "wind": "windy",
    "cloud": "cloudy",
    "clear": "clear",
    "sunny": "clear",
}
_FACTORS: Final = {"severe": 1.45, "heavy": 1.2, "light": 0.92, "moderate": 1.0}
_FAILURES: Final = re.compile(
    r"\b(fail\w*|error\w*|went wrong|outcomes?|timeouts?|timed out|incident\w*)\b", re.IGNORECASE
)
_SIMILAR: Final = re.compile(
    r"\b(similar|usual\w*|typical\w*|normal\w*|average|histor\w*|on the whole)\b", re.IGNORECASE
)
_WEATHER: Final = re.compile(r"\b(weather|forecast)\b", re.IGNORECASE)
_ALLOCATE: Final = re.compile(
    r"\b(allocat\w*|assign\w*|dispatch\b"
    r"|who (?:can|could|should|would|will|is to) (?:carry|take|deliver|bring|get))",
    re.I,
)
_STATUS: Final = {
    "success": "success",
    "succeed": "success",
    "timeout": "timeout",
    "timed out": "timeout",
    "cancel": "cancelled",
}


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a tool."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Named:
    """What a question names; couriers and orders each once, in its order."""

    orders: tuple[str, ...]
    couriers: tuple[str, ...]
    places: tuple[str, ...]
    unsure: frozenset[str] = frozenset()
    """Of the orders those that may as well be couriers."""


def calls_of(question: str, named: Named) -> list[Call]:
    """The calls that a question asks for, none if it is not understood; at most eight."""
    calls = [
        *_for_orders(question, named),
        *(_route(each) for each in named.couriers),
        *_for_places(question, named),
    ]
    if not named.orders and not named.couriers and not named.places:
        calls += _for_distance(question)
    if _FAILURES.search(question) and not named.orders:
        calls += _for_agents(question)
    return calls[:_MOST_CALLS]


def names_in(question: str, scope: Scope) -> Named:
    """Orders, couriers and places that a question, or else its scope, names."""
    places = tuple(f"{match[1]},{match[2]}" for match in _PLACE.finditer(question))
    rest = _PLACE.sub(" ", question)
    couriers = [*_after(_COURIER, rest), *(each for each in sorted(scope.driver_ids) if names(rest, each))]
    orders = [*_after(_ORDER, rest), *(each for each in sorted(scope.order_ids) if names(rest, each))]
    unsure: set[str] = set()
    for match in _ID.finditer(rest):
        token = match[0]
        if token in couriers or token in orders or _NO_ID.fullmatch(token) or numbers_in(token):
            continue
        if re.match(r"(?i)(courier|driver|rider|drv)", token):
            couriers.append(token)
        else:
            orders.append(token)
            if not re.match(r"(?i)(order|ord|delivery|parcel)", token):
                unsure.add(token)
    orders = [each for each in orders if each not in couriers]
    if not orders and not couriers and not places:
        orders, couriers = sorted(scope.order_ids), sorted(scope.driver_ids)
    return Named(
        tuple(dict.fromkeys(orders))[:_MOST_IDS],
        tuple(dict.fromkeys(couriers))[:_MOST_IDS],
        places[:2],
        frozenset(unsure),
    )


def _after(kind: re.Pattern[str], text: str) -> list[str]:
    """Ids that follow a word such as `order`, and those joined to them."""
    found: list[str] = []
    for match in kind.finditer(text):
        start, end = match.span(1)
        while _is_id(text, start, end):
            found.append(text[start:end])
            more = _AND_MORE.match(text, end)
            if more is None:
                break
            start, end = more.span(1)
    return found


def _is_id(text: str, start: int, end: int) -> bool:
    """Whether what follows a word such as `order` is an id: it has a digit, and is no measure."""
    token = text[start:end]
    if not any(char.isdigit() for char in token):
        return False
    found = numbers_in(text[start : end + _UNIT_CHARS])
    return not found or found[0].unit is Unit.NONE


def _for_orders(question: str, named: Named) -> list[Call]:
    if not named.orders:
        return []
    if _ALLOCATE.search(question):
        # Words alone change nothing: an engine only says what would be done.
        return [Call("allocate_drivers", {"order_ids": list(named.orders), "dry_run": True})]
    calls = [Call("get_order", {"order_id": each}) for each in named.orders]
    if _SIMILAR.search(question):
        calls += [Call("find_similar_deliveries", {"order_id": each}) for each in named.orders[:2]]
    if _WEATHER.search(question):
        calls += [Call("weather", {"order_id": each}) for each in named.orders[:2]]
    return calls


def _route(driver_id: str) -> Call:
    return Call("optimize_route", {"driver_id": driver_id})


def _for_places(question: str, named: Named) -> list[Call]:
    if not named.places:
        return []
    calls: list[Call] = []
    if _WEATHER.search(question):
        calls += [Call("weather", {"place": each}) for each in named.places]
    if len(named.places) == 2:
        origin, destination = named.places
        lower = question.lower()
        vehicles = list(
            dict.fromkeys(name for word, name in _VEHICLES.items() if re.search(rf"\b{word}\b", lower))
        )
        if "electric_scooter" in vehicles and lower.count("scooter") == 1:
            vehicles = [each for each in vehicles if each != "scooter"]
        options = [{"vehicle": each} for each in vehicles[:6]]
        calls.append(
            Call("get_traffic_data", {"origin": origin, "destination": destination, "route_options": options})
        )
    return calls


def _for_distance(question: str) -> list[Call]:
    match = _DISTANCE.search(question)
    lower = question.lower()
    if match is None or not re.search(r"how long|how many minutes|when|time|take", lower):
        return []
    distance_km = float(match[1]) / (1 if match[2].lower().startswith("k") else 1000)
    if not 0 < distance_km <= 200:
        return []
    arguments: dict[str, Any] = {"distance_km": distance_km}
    factor = _FACTOR.search(question)
    if factor is not None:
        asked = float(factor[1] or factor[2])
        arguments["traffic_factor"] = min(max(asked, 0.5), 5.0)
    elif "traffic" in lower:
        factors = [value for word, value in _FACTORS.items() if word in lower]
        arguments["traffic_factor"] = factors[0] if factors else None
    weather = next((name for word, name in _CONDITIONS.items() if word in lower), None)
    if weather is not None:
        arguments["weather_conditions"] = weather
    return [Call("calculate_delivery_time", arguments)]


def _for_agents(question: str) -> list[Call]:
    lower = question.lower()
    agents = [name for name in sorted(OWN) if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", lower)]
    status = next((name for word, name in _STATUS.items() if word in lower), None)
    if status is None and re.search(r"fail|error|wrong|incident", lower):
        status = "failure"
    return [
        Call("recent_outcomes", {"agent_name": name, "status": status}) for name in agents or ("eta", "route")
    ]
