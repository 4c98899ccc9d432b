"""The numbers that messages, results of tools and texts give, with the units that their fields' names say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from services.agents import figure_clock
from services.agents.figures import Unit, numbers_in
from services.mesh import json_codec

# What stands under these is not an engine's: texts from outside, and what a model itself has asked.
NOT_GIVEN: Final = frozenset({"untrusted_text", "asked"})
# Fields in which engines of ours write sentences; every other text is a name.
_SENTENCES: Final = frozenset(
    {"reason", "reasoning", "unallocated_reason", "engine_text", "critique", "explanation", "why", "note"}
)
# Ends of fields' names, the longer first where one ends as another does.
_BY_NAME: Final[tuple[tuple[str, Unit, float], ...]] = (
    ("minutes", Unit.DURATION, 60.0),
    ("time_savings", Unit.DURATION, 60.0),
    ("_min", Unit.DURATION, 60.0),
    ("_hours", Unit.DURATION, 3600.0),
    ("days", Unit.DURATION, 86400.0),
    ("_ms", Unit.DURATION, 0.001),
    ("seconds", Unit.DURATION, 1.0),
    ("_s", Unit.DURATION, 1.0),
    ("_km", Unit.DISTANCE, 1000.0),
    ("meters", Unit.DISTANCE, 1.0),
    ("_m", Unit.DISTANCE, 1.0),
    ("_kph", Unit.SPEED, 1.0),
    ("_mps", Unit.SPEED, 3.6),
    ("confidence", Unit.SHARE, 1.0),
    ("confidence_score", Unit.SHARE, 1.0),
    ("probability", Unit.SHARE, 1.0),
    ("_share", Unit.SHARE, 1.0),
    ("_rate", Unit.SHARE, 1.0),
    ("_percent", Unit.SHARE, 0.01),
    ("temperature_c", Unit.TEMPERATURE, 1.0),
    ("_usd", Unit.MONEY, 1.0),
    ("cost_estimate", Unit.MONEY, 1.0),
)
_MOST: Final = 20_000
_DEEPEST: Final = 32
_FIRST: Final = -62135596800
_LAST: Final = 253402300799


@dataclass(frozen=True, slots=True)
class Given:
    """One number somebody gave, in the base of its unit; `scale` is the unit it was given in."""

    value: float
    unit: Unit = Unit.NONE
    scale: float = 1.0
    step: float = 0.0
    """Of numbers from texts, the size of the last digit."""


@dataclass(slots=True)
class Collected:
    """All that sources give."""

    numbers: set[Given] = field(default_factory=set)
    instants: set[float] = field(default_factory=set)
    """Seconds since 1970."""
    ids: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    """Texts from outside."""
    longest: int = 0
    """Items of the longest list."""


def collect(sources: tuple[object, ...]) -> Collected:
    """The numbers of messages, mappings, lists and texts."""
    collected = Collected()
    for source in sources:
        _take(collected, "", source, 0)
    return collected


def _take(into: Collected, name: str, value: Any, depth: int) -> None:
    if depth > _DEEPEST or len(into.numbers) > _MOST or value is None or isinstance(value, bool):
        return
    if isinstance(value, Message):
        _message(into, name, value, depth)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key in NOT_GIVEN:
                _names(into, each)
            else:
                _take(into, str(key), each, depth + 1)
    elif isinstance(value, str):
        _text(into, name, value)
    elif isinstance(value, int | float):
        _number(into, name, float(value))
    elif isinstance(value, datetime):
        into.instants.add(value.timestamp())
    elif isinstance(value, list | tuple | set | frozenset):
        _list(into, name, list(value), depth)


def _message(into: Collected, name: str, message: Message, depth: int) -> None:
    if isinstance(message, Timestamp):
        if _FIRST <= message.seconds <= _LAST:
            # Without the fraction, which a double may round up to the next second, minute or year.
            into.instants.add(float(message.seconds))
        return
    if isinstance(message, Struct):
        _take(into, name, json_codec.struct_to_dict(message), depth)
        return
    if isinstance(message, Value | ListValue):
        return
    for one in message.DESCRIPTOR.fields:
        if one.type == FieldDescriptor.TYPE_ENUM:
            continue
        value = getattr(message, one.name)
        if _is_map(one):
            # Names and values are a customer's own.
            for key, each in value.items():
                if isinstance(each, str):
                    _names(into, each)
                else:
                    _take(into, key, each, depth + 1)
        elif one.is_repeated:
            _list(into, one.name, list(value), depth)
        elif one.has_presence and not message.HasField(one.name):
            continue
        else:
            _take(into, one.name, value, depth + 1)


def _is_map(one: Any) -> bool:
    return one.message_type is not None and one.message_type.GetOptions().map_entry


def _list(into: Collected, name: str, values: list[Any], depth: int) -> None:
    into.numbers.add(Given(float(len(values))))
    into.longest = max(into.longest, len(values))
    for each in values:
        _take(into, name, each, depth + 1)


def _names(into: Collected, value: Any) -> None:
    if isinstance(value, str):
        into.names.add(value)
    elif isinstance(value, Mapping):
        for each in value.values():
            _names(into, each)
    elif isinstance(value, list | tuple):
        for each in value:
            _names(into, each)


def _text(into: Collected, name: str, text: str) -> None:
    if not name or name in _SENTENCES:
        for figure in numbers_in(text):
            if figure.unit is Unit.INSTANT:
                into.instants.add(figure.value)
            elif figure.unit is not Unit.POSITION:
                for value in (figure.value, *figure.others):
                    signed = -value if figure.sign < 0 else value
                    if math.isfinite(value):
                        into.numbers.add(Given(signed, figure.unit, figure.scale, figure.step))
        return
    found = numbers_in(text)
    if len(found) == 1 and found[0].unit is Unit.INSTANT and found[0].text == text:
        into.instants.add(_exact(text, found[0].value))
    elif found or numbers_in(f"{text}."):  # `doubled` is a number only with a stop behind it
        (into.ids if name.endswith(("_id", "_ids", "id")) else into.names).add(text)


def _exact(text: str, seconds: float) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return seconds
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()


def _number(into: Collected, name: str, value: float) -> None:
    if not math.isfinite(value):
        return
    for end, unit, scale in _BY_NAME:
        if name.endswith(end):
            into.numbers.add(Given(value * scale, unit, scale))
            return
    into.numbers.add(Given(value))


def clocks(instants: set[float]) -> set[float]:
    """Times of day (UTC, seconds) of instants."""
    return {figure_clock.clock_s(datetime.fromtimestamp(each, UTC)) for each in instants}


def days(instants: set[float]) -> set[float]:
    """Dates (UTC) of instants, with and without the year."""
    dates = {datetime.fromtimestamp(each, UTC).date() for each in instants}
    return {figure_clock.day(each) for each in dates} | {figure_clock.day_of_year(each) for each in dates}


def years(instants: set[float]) -> set[float]:
    """Years (UTC) of instants."""
    return {float(datetime.fromtimestamp(each, UTC).year) for each in instants}
