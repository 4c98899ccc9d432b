"""Times of day and dates in a text."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal

from services.agents.figure_words import WHOLE, value_of

NO_YEAR: Final = 4
"""The leap year that stands for a date without one."""

_DAY_S: Final = 86400.0
_HALF_DAY_S: Final = 43200.0
_MONTHS: Final = re.findall(
    r"\w+", "january february march april may june july august september october november december"
)
WORDS: Final = frozenset({"noon", "midday", "midnight", *_MONTHS, *(month[:3] for month in _MONTHS)})
"""Words with which a time or date may begin, besides numbers."""
_MONTH: Final = "|".join(rf"{month}|{month[:3]}\.?" for month in _MONTHS)

_INSTANT: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?\s?(Z|UTC\b|[+-]\d\d:\d\d)?", re.IGNORECASE
)
_ISO: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?![\w-])")
_SLASHED: Final = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})(?!\w)")
_DAY_MONTH: Final = re.compile(
    rf"(\d{{1,2}})(?:st|nd|rd|th)?(?: of)? ({_MONTH})\b(?:,? (\d{{4}})(?!\w))?", re.IGNORECASE
)
_MONTH_DAY: Final = re.compile(
    rf"({_MONTH}) (?:the )?(\d{{1,2}})(?:st|nd|rd|th)?"
    r"(?![\w:%]|\.\d| ?(?:minutes?|mins?|km|hours?|%|m\b|s\b))"
    r"(?:,? (\d{4})(?!\w))?",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(
    r"([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d)(?:\.\d+)?)?(?![\d:]|\w{3})(?:\s?([ap])(?:m\b|\.\s?m\b\.?))?",
    re.IGNORECASE,
)
_MERIDIEM: Final = re.compile(
    r"(1[0-2]|0?[1-9])(?:\s?(?:-|–|to|and)\s?(?:1[0-2]|0?[1-9]))?\s?([ap])(?:m\b|\.\s?m\b\.?)", re.IGNORECASE
)
_RANGE_OF: Final = re.compile(r"\s?(?:-|–|to|and)\s?", re.IGNORECASE)
_OCLOCK: Final = re.compile(rf"(\d{{1,2}}|{WHOLE}) o['’]clock\b", re.IGNORECASE)
_PAST: Final = re.compile(
    rf"(half|a? ?quarter|{WHOLE}|\d{{1,2}})(?: minutes?)? (past|to) ({WHOLE}|\d{{1,2}})\b"
    r"(?! (?:minutes?|min|km))",
    re.IGNORECASE,
)
_NAMED: Final = re.compile(r"(noon|midday|midnight)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What stands there, and where it ends. Dates are days since year 1; without a year: in year 4."""

    kind: Literal["clock", "date", "instant"]
    end: int
    values: tuple[float, ...]
    step: float


def read(text: str, at: int) -> Reading | None:
    """The time or date that begins at `at`; None if none does."""
    for pattern, reader in _READERS:
        match = pattern.match(text, at)
        if match is not None:
            reading = reader(match)
            if reading is not None:
                return reading
    return None


def clock_s(at: datetime) -> float:
    """Seconds of the day."""
    return at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6


def day(at: date) -> float:
    """A date as a number."""
    return float(at.toordinal())


def day_of_year(at: date) -> float:
    """A date without its year as a number."""
    return day(date(NO_YEAR, at.month, at.day))


def _instant(match: re.Match[str]) -> Reading | None:
    zone = (match[7] or "Z").upper().replace("UTC", "Z").replace("Z", "+00:00")
    try:
        at = datetime.fromisoformat(
            f"{match[1]}-{match[2]}-{match[3]}T{match[4]}:{match[5]}:{match[6] or '00'}{zone}"
        )
        seconds = at.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return Reading("instant", match.end(), (seconds,), 1.0 if match[6] else 60.0)


def _date(end: int, year: str | None, month: int, of_month: str) -> Reading | None:
    try:
        return Reading("date", end, (day(date(int(year) if year else NO_YEAR, month, int(of_month))),), 1.0)
    except ValueError:
        return None


def _month(name: str) -> int:
    return next(place for place, month in enumerate(_MONTHS, 1) if month.startswith(name.lower()[:3]))


def _iso(match: re.Match[str]) -> Reading | None:
    month = int(match[2])
    return _date(match.end(), match[1], month, match[3]) if month <= 12 else None


def _slashed(match: re.Match[str]) -> Reading | None:
    both = [
        found.values[0]
        for month, of_month in ((match[1], match[2]), (match[2], match[1]))
        if (found := _date(match.end(), match[3], int(month), of_month)) is not None
    ]
    return Reading("date", match.end(), tuple(both), 1.0) if both else None


def _day_month(match: re.Match[str]) -> Reading | None:
    return _date(match.end(), match[3], _month(match[2]), match[1])


def _month_day(match: re.Match[str]) -> Reading | None:
    if match[1] == "may":  # as in: it may 5 times out of 10
        return None
    return _date(match.end(), match[3], _month(match[1]), match[2])


def _clock(match: re.Match[str]) -> Reading | None:
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[4].lower() == "p" else 0)
    seconds = (hour * 3600 + minute * 60 + second) % _DAY_S
    return Reading("clock", match.end(), (seconds,), 1.0 if match[3] else 60.0)


def _meridiem(match: re.Match[str]) -> Reading | None:
    hour = int(match[1]) % 12 + (12 if match[2].lower() == "p" else 0)
    # Of `7 to 8 pm` this is the first; what follows is read by itself.
    link = _RANGE_OF.match(match.string, match.end(1))
    ranged = match.string[match.end(1) : match.start(2)].strip() != "" and link is not None
    end = link.end() if ranged and link is not None else match.end()
    return Reading("clock", end, (hour * 3600.0,), 60.0)


def _twelve_hours(end: int, hour: float, minute: float) -> Reading | None:
    if not 1 <= hour <= 12:
        return None
    seconds = (hour % 12 * 3600 + minute * 60) % _HALF_DAY_S
    return Reading("clock", end, (seconds, seconds + _HALF_DAY_S), 60.0)


def _whole(words: str) -> float:
    return float(words) if words.isdigit() else value_of(words)


def _oclock(match: re.Match[str]) -> Reading | None:
    return _twelve_hours(match.end(), _whole(match[1]), 0)


def _past(match: re.Match[str]) -> Reading | None:
    said = match[1].lower()
    minute = 30.0 if said == "half" else 15.0 if said.endswith("quarter") else _whole(said)
    hour = _whole(match[3])
    exact = said == "half" or said.endswith("quarter") or match[2].lower() == "past"
    # `five to seven` is a range as often as a time: only with a quarter or past it is certain.
    if not exact or not 0 < minute < 60:
        return None
    if match[2].lower() == "to":
        hour, minute = (hour - 2) % 12 + 1, 60 - minute
    return _twelve_hours(match.end(), hour, minute)


def _named(match: re.Match[str]) -> Reading | None:
    return Reading("clock", match.end(), (0.0 if match[1].lower() == "midnight" else _HALF_DAY_S,), 60.0)


_READERS: Final = (
    (_INSTANT, _instant),
    (_ISO, _iso),
    (_SLASHED, _slashed),
    (_DAY_MONTH, _day_month),
    (_MONTH_DAY, _month_day),
    (_OCLOCK, _oclock),
    (_PAST, _past),
    (_CLOCK, _clock),
    (_MERIDIEM, _meridiem),
    (_NAMED, _named),
)
