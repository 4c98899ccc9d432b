"""Numbers and lists as people say them. Numbers are rounded, never calculated with."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from services.agents.links import has_link
from services.agents.tools.scope import is_plain_id

_SHORT_MIN: Final = 0.05
_LONG_MIN: Final = 100.0
_FIRST: Final = -62135596800
_LAST: Final = 253402300799
# Longer ids are cut out of sentences rather than cut.
_MAX_ID_CHARS: Final = 64


def minutes(value: float) -> str:
    """A time of so many minutes; without a sign."""
    value = abs(value)
    if not math.isfinite(value):
        return "an unknown time"
    if is_short(value):
        return "no time to speak of"
    if value < 9.95:
        return f"{value:.1f} minutes"
    whole = round(value)
    if whole < _LONG_MIN:
        return f"{whole} minutes"
    hours, rest = divmod(whole, 60)
    return f"{hours:,} h {rest} min" if rest else f"{hours:,} h 0 min"


def between(low: float, high: float) -> str:
    """`18 to 31 minutes`."""
    first, last = minutes(low), minutes(high)
    if first == last:
        return first
    unit = " minutes"
    return f"{first.removesuffix(unit) if last.endswith(unit) else first} to {last}"


def kilometres(distance_m: float) -> str:
    """A way of so many metres; without a sign."""
    distance_m = abs(distance_m)
    if not math.isfinite(distance_m):
        return "an unknown distance"
    if distance_m < 995:
        return f"{distance_m:.0f} m"
    return f"{distance_m / 1000:,.1f} km"


def percent(share: float) -> str:
    """A share of 1."""
    return f"{100 * share:.0f}%" if math.isfinite(share) else "an unknown share"


def number(value: float) -> str:
    """A plain number."""
    if not math.isfinite(value):
        return "unknown"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.1f}"


def clock(time: Timestamp) -> str:
    """A time of day, UTC; empty outside the years 1 to 9999."""
    at = moment(time)
    return "" if at is None else f"{at:%H:%M} UTC"


def day(time: Timestamp) -> str:
    """A date, UTC; empty outside the years 1 to 9999."""
    at = moment(time)
    return "" if at is None else f"{at.year:04d}-{at:%m-%d}"


def moment(time: Timestamp) -> datetime | None:
    """The time; None outside the years 1 to 9999."""
    if not _FIRST <= time.seconds <= _LAST:
        return None
    return datetime.fromtimestamp(time.seconds, UTC)


def order(order_id: str) -> str:
    """`order order_456`; without the id if it is none that can stand in a sentence."""
    return f"order {order_id}" if _sayable(order_id) else "the order"


def courier(driver_id: str) -> str:
    """`courier driver_123`, likewise."""
    return f"courier {driver_id}" if _sayable(driver_id) else "the courier"


def agent(name: str) -> str:
    """The name of an agent; that it is one, if the name is none that can stand in a sentence."""
    return name if _sayable(name) else "the agent"


def listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def when(time: Timestamp) -> str:
    """` at 19:53 UTC on 2026-11-21`; empty outside the years 1 to 9999."""
    return f" at {clock(time)} on {day(time)}" if clock(time) else ""


def counted(count: int, noun: str) -> str:
    """`1 delivery`, `2 deliveries`."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def paragraph(said: Iterable[str]) -> str:
    """What is not empty, each as a sentence."""
    return " ".join(told for each in said if (told := sentence(each)))


def sentence(text: str) -> str:
    """The text with a capital at its head and a stop at its end."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def is_short(value: float) -> bool:
    """Whether so many minutes are no time to speak of."""
    return abs(value) < _SHORT_MIN


def _sayable(one: str) -> bool:
    return is_plain_id(one) and len(one) <= _MAX_ID_CHARS and not has_link(one)
