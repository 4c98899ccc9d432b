"""Which tools a question points at: by the ids and places that stand in it, and a few plain words."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from services.agents.figures import Unit, numbers_in
from services.agents.recorded_names import BUILT_IN_NAMES, OWN, PREFIX, recorded_name
from services.agents.tools import Scope
from services.agents.tools.scope import names

_MOST_CALLS: Final = 8
_MOST_IDS: Final = 4
# Of what may be an id; a question may be thousands of them.
_MOST_LOOKED_AT: Final = 64
# The longest unit, so far behind a number.
_UNIT_CHARS: Final = 12

_TOKEN: Final = r"[\w][\w.:@/#+~-]{0,126}[\w]|[\w]"
# `no` is a word for a number only with a dot or a blank behind it: there are ids such as `north-17`.
_CALLED: Final = r"(?:\s+(?:no\.|(?:id|number|no|named|called)(?=[\s:#=\"'`])))?[\s:#=\"'`]*"


def _id_after(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b{_CALLED}({_TOKEN})", re.IGNORECASE)


_ORDER: Final = _id_after(r"orders?|deliver(?:y|ies)|parcels?|packages?")
_COURIER: Final = _id_after(r"couriers?|drivers?|riders?")
_MERCHANT: Final = _id_after(r"merchants?|restaurants?|shops?|stores?")
_AREA: Final = _id_after(r"areas?|zones?|districts?")
# What stands behind a word such as `area` and is no name: `in this area at noon`.
_NO_NAME: Final = re.compile(
    r"(?i)(?:a|an|and|are|at|between|by|can|did|do|does|during|for|from|go|goes|going|gone|had|has|have|how"
    r"|in|is|it|near|normally|of|on|or|take|takes|than|that|the|then|there|this|to|took|typically|usually"
    r"|was|went|were|when|where|which|with)"
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
# About deliveries on the whole, if no order is named.
_DELIVERIES: Final = re.compile(r"\bdeliver(?:y|ies)\b|\borders\b", re.IGNORECASE)
_WENT: Final = re.compile(r"\b(go|goes|went|gone|take|takes|took|late|fast|slow|long)\b", re.IGNORECASE)
_HOUR: Final = re.compile(
    r"\b(?:at|around|about|towards)\s+(?:(?P<hour>[01]?\d|2[0-3])(?:[:.]00\b|\s*(?:o'?clock|h|hours|utc)\b)"
    r"|(?P<half>1[0-2]|0?[1-9])\s*(?P<noon>[ap])\.?m\b|(?P<word>noon|midnight)\b)",
    re.IGNORECASE,
)
# Asks for the order itself, besides how such orders go or what the weather is.
_ITSELF: Final = re.compile(r"\b(where|when|why|who|late|arriv\w*|status|expected)\b", re.IGNORECASE)
_AGENTS: Final = re.compile(r"\bagents?\b", re.IGNORECASE)
_DOING: Final = re.compile(
    r"\b(do|did|does|doing|done|been|busy|lately|of late|recent\w*|last|up to)\b", re.I
)
# Those that do tasks by themselves, as many as one question may call; eta and route are agents and services.
_ACTING: Final = (*(PREFIX + name for name in sorted(BUILT_IN_NAMES)), "allocation", "eta", "route")
_LONGEST_FIRST: Final = sorted({*OWN, *BUILT_IN_NAMES}, key=len, reverse=True)
_AGENT: Final = re.compile(
    rf"(?<![\w.-])(?P<the>agent\s+)?(?P<name>{'|'.join(map(re.escape, _LONGEST_FIRST))})(?![\w-]|\.\w)"
    r"(?P<one>\s+agent\b)?",
    re.IGNORECASE,
)
# Somebody else's agent: what looks like a name, or is said to be one.
_OTHER_AGENT: Final = re.compile(
    r"\bwhat\s+(?:did|does|has|is|was)\s+(?:the\s+)?(?P<the>agent\s+)?[\"'`]?"
    rf"(?P<name>(?!been\b){_TOKEN})[\"'`]?\s+(?:do|done|doing|been|up)\b",
    re.IGNORECASE,
)
_WEATHER: Final = re.compile(r"\b(weather|forecast)\b", re.IGNORECASE)
_ALLOCATE: Final = re.compile(
    r"\b(allocat\w*|assign\w*|dispatch\b"
    r"|who (?:can|could|should|would|will|is to) (?:carry|take|deliver|bring|get)|\bgive\b)",
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
    merchants: tuple[str, ...] = ()
    areas: tuple[str, ...] = ()
    unsure: frozenset[str] = frozenset()
    """Of the orders those that may as well be couriers."""


def calls_of(question: str, named: Named) -> list[Call]:
    """The calls that a question asks for, none if it is not understood; at most eight."""
    calls = [
        *_for_orders(question, named),
        *(_route(each) for each in named.couriers),
        *_for_places(question, named),
    ]
    if not calls:
        calls += _for_kinds(question, named) or _for_distance(question)
    if not named.orders and (_FAILURES.search(question) or (not calls and _is_about_agents(question))):
        calls += _for_agents(question)
    return calls[:_MOST_CALLS]


def wanted(question: str) -> str:
    """What a question that calls nothing would have to name; empty if it is not understood at all."""
    if re.search(r"\b(?:orders?|parcels?|packages?|deliver(?:y|ies)|it)\b", question, re.I) and (
        _ITSELF.search(question) or _ALLOCATE.search(question)
    ):
        return "an order by its id"
    if re.search(r"\b(?:couriers?|drivers?|riders?)\b", question, re.I) and re.search(
        r"\b(?:where|when|route|way|stops?|carr(?:y|ies)|next|do|does|doing)\b", question, re.I
    ):
        return "a courier by its id"
    if _WEATHER.search(question):
        return "a place by its coordinates, or an order by its id"
    if re.search(r"\b(?:how (?:long|far)|distance)\b", question, re.I):
        return "the places by their coordinates, or a distance in kilometres"
    if _DELIVERIES.search(question) and (_WENT.search(question) or _SIMILAR.search(question)):
        return "a merchant by its id, an area or a time of day"
    return ""


def names_in(question: str, scope: Scope) -> Named:
    """Orders, couriers and places that a question, or else its scope, names."""
    places = tuple(f"{match[1]},{match[2]}" for match in _PLACE.finditer(question))
    rest = _PLACE.sub(" ", question)
    # A name without digits is one only where deliveries on the whole are asked about.
    fits = _is_name if _DELIVERIES.search(rest) or _SIMILAR.search(rest) else _is_id
    merchants = _after(_MERCHANT, rest, fits)
    areas = _after(_AREA, rest, fits)
    couriers = _after(_COURIER, rest, _is_id)
    orders = _after(_ORDER, rest, _is_id)
    seen = [span for found in (merchants, areas, couriers, orders) for span in found.values()]
    couriers |= {each: (0, 0) for each in sorted(scope.driver_ids) if names(rest, each)}
    orders |= {each: (0, 0) for each in sorted(scope.order_ids) if names(rest, each)}
    unsure: set[str] = set()
    for match in islice(_ID.finditer(rest), _MOST_LOOKED_AT):
        token = match[0]
        if any(start < match.end() and match.start() < end for start, end in seen):
            continue
        if token in couriers or token in orders or _NO_ID.fullmatch(token) or numbers_in(token):
            continue
        if re.match(r"(?i)(courier|driver|rider|drv)", token):
            couriers[token] = match.span()
        elif re.match(r"(?i)(merchant|restaurant|shop|store)", token):
            merchants[token] = match.span()
        else:
            orders[token] = match.span()
            if not re.match(r"(?i)(order|ord|delivery|parcel)", token):
                unsure.add(token)
    other = {*couriers, *merchants, *areas}
    found = [each for each in orders if each not in other]
    carriers = [each for each in couriers if each not in merchants and each not in areas]
    if not (found or carriers or places or merchants or areas):
        found, carriers = sorted(scope.order_ids), sorted(scope.driver_ids)
    return Named(
        tuple(found)[:_MOST_IDS],
        tuple(carriers)[:_MOST_IDS],
        places[:2],
        tuple(merchants)[:_MOST_IDS],
        tuple(areas)[:_MOST_IDS],
        frozenset(unsure),
    )


_Spans = dict[str, tuple[int, int]]


def _after(kind: re.Pattern[str], text: str, fits: Callable[[str, int, int], bool]) -> _Spans:
    """Ids that follow a word such as `order`, and those joined to them, with where they stand."""
    found: _Spans = {}
    for match in islice(kind.finditer(text), _MOST_LOOKED_AT):
        start, end = match.span(1)
        while len(found) < _MOST_LOOKED_AT and fits(text, start, end):
            found.setdefault(text[start:end], (start, end))
            more = _AND_MORE.match(text, end)
            if more is None:
                break
            start, end = more.span(1)
    return found


def _is_name(text: str, start: int, end: int) -> bool:
    """Whether what follows a word such as `area` is a name: an id, or a word that is not one of grammar."""
    token = text[start:end]
    return _is_id(text, start, end) or (
        _NO_NAME.fullmatch(token) is None and not any(char.isdigit() for char in token)
    )


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
    calls = []
    if _SIMILAR.search(question):
        calls += [Call("find_similar_deliveries", {"order_id": each}) for each in named.orders[:2]]
    if _WEATHER.search(question):
        calls += [Call("weather", {"order_id": each}) for each in named.orders[:2]]
    if calls and not _ITSELF.search(question):
        return calls
    return [*(Call("get_order", {"order_id": each}) for each in named.orders), *calls]


def _for_kinds(question: str, named: Named) -> list[Call]:
    """How deliveries of a merchant, in an area or at an hour went."""
    hour = _hour_in(question)
    if not named.merchants and not named.areas:
        if hour is None or not _DELIVERIES.search(question):
            return []
        return [Call("find_similar_deliveries", {"hour": hour})]
    area = named.areas[0] if named.areas else None
    kinds = [{"merchant_id": each, "area": area} for each in named.merchants]
    kinds = kinds or [{"merchant_id": None, "area": each} for each in named.areas]
    return [
        Call(
            "find_similar_deliveries",
            {name: value for name, value in (kind | {"hour": hour}).items() if value is not None},
        )
        for kind in kinds
    ]


def _hour_in(question: str) -> int | None:
    match = _HOUR.search(question)
    if match is None:
        return None
    if match["word"]:
        return 12 if match["word"].lower() == "noon" else 0
    if match["noon"]:
        return int(match["half"]) % 12 + (12 if match["noon"].lower() == "p" else 0)
    return int(match["hour"])


def _is_about_agents(question: str) -> bool:
    return bool(_AGENTS.search(question) or _agents_in(question)) and bool(_DOING.search(question))


def _agents_in(question: str) -> list[str]:
    """The agents that a question names, as outcomes call them if they are Waymesh's."""
    found: dict[str, None] = {}
    for match in islice(_AGENT.finditer(question), _MOST_LOOKED_AT):
        name = match["name"].lower()
        said_so = (match["the"] or match["one"]) and name in BUILT_IN_NAMES
        found[PREFIX + name if said_so else recorded_name(name)] = None
    other = None if found else _OTHER_AGENT.search(question)
    if other is not None and (other["the"] or re.search(r"\w[-_.]\w", other["name"])):
        found[other["name"]] = None
    return sorted(found)


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
    # `agents` is the name of a service as well as a word.
    agents = [name for name in _agents_in(question) if name != "agents"]
    status = next((name for word, name in _STATUS.items() if word in lower), None)
    if status is None and re.search(r"fail|error|wrong|incident", lower):
        status = "failure"
    return [Call("recent_outcomes", {"agent_name": name, "status": status}) for name in agents or _ACTING]
