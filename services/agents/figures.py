"""The numbers in a text of English, with their units and as exact as they are written.

Of other languages: digits with their units; words are numbers without a value (`figure_foreign.py`).
Ids such as `order_456`, labels such as `P90` and places in a list (`2.` at the head of a line, `the second
stop`, `3rd`) are no numbers.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from services.agents import figure_clock, figure_foreign
from services.agents.figure_words import NUMBER_WORDS, ORDINAL, PHRASE_WORDS, VAGUE, WHOLE, value_of


class Unit(Enum):
    """What a number measures; its base is in the value."""

    NONE = "number"
    DURATION = "s"
    DISTANCE = "m"
    SPEED = "km/h"
    SHARE = "of 1"
    TEMPERATURE = "°C"
    MONEY = "USD"
    CLOCK = "s of the day"
    DATE = "date"
    INSTANT = "s since 1970"
    POSITION = "place in a list"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a text. `value` and `step`, the size of its last digit, are in the base of the unit."""

    text: str
    start: int
    """Where it is known to be a number: of `a few minutes`, at the minutes."""
    end: int
    value: float
    step: float
    unit: Unit = Unit.NONE
    scale: float = 1.0
    """Size of the unit as written, in the base: 60 for minutes."""
    sign: int = 0
    """-1 or 1 if one is written."""
    others: tuple[float, ...] = ()
    """Further values it may stand for: seven o'clock in the evening."""
    parts: tuple["Figure", ...] = ()
    """Of hours and minutes: each by itself."""
    counts: bool = False
    """A noun follows: it counts something, and is no measure without a unit."""


# What may stand between a number and its unit: a space, marks of emphasis, a bracket, a word.
_BEFORE_UNIT: Final = r"[*`\"]{0,3}(?:\s?(?:(?:more|extra|additional|full|whole|long)\s)?[*`(\[]{0,3}|-)"
# Written forms, the longer first where one begins with another.
_UNITS: Final = tuple(
    (re.compile(rf"{_BEFORE_UNIT}(?:{pattern})", re.IGNORECASE), unit, scale)
    for pattern, unit, scale in (
        (r"%|per ?cent(?:age points?)?\b|percentage points?\b|pp\b", Unit.SHARE, 0.01),
        (r"km/h\b|kmh\b|kph\b|km per hour\b|kilomet(?:er|re)s? (?:per|an) hour\b", Unit.SPEED, 1.0),
        (r"m/s\b|met(?:er|re)s? (?:per|a) second\b", Unit.SPEED, 3.6),
        (r"mph\b|miles? (?:per|an) hour\b", Unit.SPEED, 1.609344),
        (r"milliseconds?\b|msecs?\b|ms\b", Unit.DURATION, 0.001),
        (r"minutes?\b|mins?\b", Unit.DURATION, 60.0),
        (r"hours?\b|hrs?\b|h\b", Unit.DURATION, 3600.0),
        (r"seconds?\b|secs?\b|s\b", Unit.DURATION, 1.0),
        (r"days?\b", Unit.DURATION, 86400.0),
        (r"weeks?\b", Unit.DURATION, 604800.0),
        (r"fortnights?\b", Unit.DURATION, 1209600.0),
        (r"kilomet(?:er|re)s?\b|kms?\b", Unit.DISTANCE, 1000.0),
        (r"met(?:er|re)s?\b|m\b", Unit.DISTANCE, 1.0),
        (r"miles?\b|mi\b", Unit.DISTANCE, 1609.344),
        (r"°(?: ?C\b)?|degrees?(?: celsius)?\b", Unit.TEMPERATURE, 1.0),
        (r"(?:US )?dollars?\b|USD\b", Unit.MONEY, 1.0),
        (r"cents?\b", Unit.MONEY, 0.01),
    )
)
_DIGITS: Final = (
    r"\d{1,3}(?:[,\u00a0\u202f]\d{3})+(?![\d])(?:\.\d+)?|\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3}(?![\w-]))?|\.\d+"
)
_NUMBER: Final = re.compile(_DIGITS)
# 19,5 minutos
_COMMA: Final = re.compile(r"\d{1,6},\d{1,2}(?![\d,]|\.\d)")
_COMMA_NEXT: Final = re.compile(
    rf"\s?(?:[-–—]|à|a|bis|und|e|y|et|ou|o|oder|tot|to|and|or)\s?(?P<next>{_COMMA.pattern})", re.IGNORECASE
)
_VULGAR: Final = {"½": 0.5, "¼": 0.25, "¾": 0.75, "⅓": 1 / 3, "⅔": 2 / 3, "⅛": 0.125}
_UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![\w-])", re.IGNORECASE)
_WORDY: Final = re.compile(
    r"[^\W\d][^\W_]{0,60}-(?=\d+(?:\.\d+)?-(?:minutes?|mins?|hours?|km|m|seconds?|%)\b)", re.I
)
# No id has more or longer parts; without a bound, a text of nothing else is read again from each part on.
_PARTS: Final = r"(?:-\w{1,128}){0,16}"
_ID: Final = re.compile(rf"[^\W_]\w{{0,127}}{_PARTS}")
# x45 minutes, P45 min, r45min; `P90 minutes` are those of a quantile.
_LABEL_UNIT: Final = re.compile(
    r"[*`\"]{0,3}(?:[^\S\n]|-)?(?:(?:minutes?|mins?|hours?|hrs?|seconds?|secs?|km|kms|kilomet(?:er|re)s?"
    r"|met(?:er|re)s?|miles?)(?!\w)|%(?![\w%~]))|[^\S\n](?-i:[hms])(?![\w'’])",
    re.IGNORECASE,
)
_QUANTILES: Final = frozenset({"P10", "P50", "P90", "P95", "P99"})
_ORDINAL: Final = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_WORD_BEHIND: Final = re.compile(r"[^\W\d_]+(?![\w-])")
_TIMES: Final = re.compile(r" ?(?:×|x\b)|[ -](?:times|fold)\b", re.IGNORECASE)
_COMPACT: Final = re.compile(r"(\d{1,3})h(\d{2})(?:m|min)?\b", re.IGNORECASE)
_LINE_MARKER: Final = re.compile(r"^[ \t]*\(?(\d{1,2})[.)](?=[ \t])", re.MULTILINE)
_RUN: Final = re.compile(rf"(\w{{1,128}}){_PARTS}")
_EMPHASIS: Final = re.compile(r"_+")
_MOST_DIGITS: Final = 300
# Scripts behind these set no blanks between words.
_LATIN_TO_ARABIC: Final = "\u0e00"
_DIGIT: Final = re.compile(r"[\d½¼¾⅓⅔⅛]")
_POSITION: Final = re.compile(
    r"\b(?:step|stop|option|alternative|leg|plan|route)s? (?:no\. ?|number |#)?"
    r"(\d{1,2})(?![\w.,:%]*\d)(?!\w)",
    re.I,
)
_WORDS: Final = re.compile(rf"\b{WHOLE}\b", re.IGNORECASE)
_A_UNIT: Final = re.compile(
    r"\b(?:an?|one)(?=[ -](?:hour|minute|kilomet|met(?:er|re)\b|mile|percent|day\b|fortnight))", re.I
)
_HALVES: Final = re.compile(
    r"\b(?:(?P<hour>half an hour|half-hour|half hour)|(?P<quarters>(?:(?P<three>three)|an?|one)[- ]quarters?"
    r"(?P<quarter_hour> of an hour)?(?! (?:past|to)\b))"
    r"|(?P<thirds>(?P<two>two)[- ]thirds|(?:a|one)[- ]third(?= of\b))"
    r"|(?P<half>half(?! past\b)))\b",
    re.I,
)
_MORE_HALF: Final = re.compile(r" and (?:an? )?(half|quarter)\b(?! (?:of|an)\b)", re.IGNORECASE)
_TWICE: Final = re.compile(
    r"\b(?:(twice|doubled?(?= the| that| as|[.,;])|doubles(?= the))"
    r"|(thrice|tripled?(?= the| that| as|[.,;])))\b",
    re.I,
)
_LINK: Final = re.compile(
    r"[^\S\n]*(?:,|/|~|\.{2,3}|…|-|–|—|\b(?:to|and|or|through|until|till|a|à|bis|und|e|y|et|ou|o|oder|tot|até|hasta)\b)?"
    r"(?:[^\S\n]*\b(?:and|or|to|about|around|roughly|nearly|almost|up to|at (?:most|least)|even)\b)*"
    r"[^\S\n]*\Z"
)
_TOGETHER: Final = re.compile(r"(?:,? and |, ?| |)\Z")
_FUNCTION_WORD: Final = re.compile(
    r"(?:[^\S\n]|[\"'])*(?:\n|[^\w\s\"'(]|\(|\Z|(?:and|to|or|for|at|in|with|on|is|as|of|from|by|until|before|after|if|but|when"
    r"|while|so|because|since|that|than|instead|rather|against|per)\b)"
)
_INHERITED: Final = frozenset(
    {Unit.DURATION, Unit.DISTANCE, Unit.SPEED, Unit.SHARE, Unit.TEMPERATURE, Unit.MONEY}
)


def numbers_in(text: str, place: int = 0) -> list[Figure]:
    """Every number of the text, in order. `place`: where a list that goes on in it has come to."""
    found = list(_scan(text, place))
    found = _with_units_of_the_next(text, found)
    return _with_foreign(text, _together(text, found))


def place_after(text: str, place: int = 0) -> int:
    """Where a list of `1.`, `2.` … at the heads of lines has come to by the end of the text."""
    for match in _LINE_MARKER.finditer(text):
        if int(match[1]) in (1, place + 1):
            place = int(match[1])
    return place


def _scan(text: str, place: int) -> Iterator[Figure]:
    markers: dict[int, int] = {}
    for match in _LINE_MARKER.finditer(text):
        if int(match[1]) in (1, place + 1):
            place = int(match[1])
            markers[match.start(1)] = match.end()
    at = 0
    while (run := _RUN.search(text, at)) is not None:
        at = run.start()
        emphasis = _EMPHASIS.match(text, at)
        if emphasis is not None:  # _12_
            at = emphasis.end()
            continue
        if not run[0].isascii() and (odd := _odd(run)) is not None:
            yield odd
            at = odd.end
            continue
        if _DIGIT.search(run[0]) is None and run[1].lower() not in _TRIGGERS:
            # `twenty-five` begins with a trigger; what has none at its head has none in it.
            at = run.end()
            continue
        if at in markers:
            at = markers[at]
            continue
        if text[at - 1 : at] == "." and text[at].isdigit() and not _is_word(text[at - 2 : at - 1]):
            at -= 1
        end = at
        for reader in _READERS:
            read = reader(text, at)
            if isinstance(read, Figure):
                yield read
                end = read.end
                break
            if read is not None:
                end = read
                break
        at = end if end > at else run.end(1)


def _odd(run: re.Match[str]) -> Figure | None:
    """Digits that are none of ours, such as ⁷ and ⑦: a number that nobody can have given."""
    for place, char in enumerate(run[0]):
        if char not in _VULGAR and unicodedata.category(char) in ("No", "Nl"):
            start = run.start() + place
            return Figure(char, start, start + 1, math.inf, 1.0)
    return None


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _date_or_clock(text: str, at: int) -> Figure | None:
    read = figure_clock.read(text, at)
    if read is None:
        return None
    unit = {"clock": Unit.CLOCK, "date": Unit.DATE, "instant": Unit.INSTANT}[read.kind]
    shown = text[at : read.end]
    return Figure(shown, at, read.end, read.values[0], read.step, unit, others=read.values[1:])


def _position(text: str, at: int) -> Figure | None:
    match = _POSITION.match(text, at)
    if match is None or _unit_at(text, match.end()) is not None:
        return None
    return Figure(match[0], match.start(1), match.end(), float(match[1]), 1.0, Unit.POSITION)


def _skipped(text: str, at: int) -> Figure | int | None:
    """The end of an id or label that starts here, or the number that it is."""
    uuid = _UUID.match(text, at)
    if uuid is not None:
        return uuid.end()
    wordy = _WORDY.match(text, at)
    if wordy is not None:
        return wordy.end()
    run = _ID.match(text, at)
    if run is None or not any(char.isdigit() for char in run[0]):
        return None
    if not run[0][0].isdigit():
        return _label(text, run)
    number = _NUMBER.match(text, at)
    if number is None:
        return None
    end = number.end()
    if (
        end == len(text)
        or not _is_word(text[end])
        or (text[end] == "_" and not text[end + 1 : end + 2].isalpha())
        or text[end] in _VULGAR
        or _COMPACT.match(text, at) is not None
    ):
        return None
    if _unit_at(text, end) is not None or _TIMES.match(text, end) is not None:
        return None
    ordinal = _ORDINAL.match(text, end)
    if ordinal is not None:
        return ordinal.end()
    # 23minuti: a measure that is not known here is a number all the same.
    return None if _WORD_BEHIND.match(text, end) is not None else run.end()


def _label(text: str, run: re.Match[str]) -> Figure | int:
    """The end of what begins with a letter and has digits; of `x45 min`, the number."""
    if run[0][0] > _LATIN_TO_ARABIC:  # 大约20分钟: nothing sets a number apart
        return run.start() + next(place for place, char in enumerate(run[0]) if char.isdigit())
    glued = run.end()
    while text[glued - 1].isalpha():
        glued -= 1
    digits = glued
    while text[digits - 1].isdecimal() and digits > run.start():
        digits -= 1
    number = _NUMBER.match(text, digits)
    if digits == glued or number is None or (glued == run.end() and run[0].upper() in _QUANTILES):
        return run.end()
    end = glued if glued < run.end() else number.end()
    if not _LABEL_UNIT.match(text, end) and not figure_foreign.is_unit_of_word(text, end):
        return run.end()
    read = _number(text, digits)
    if read is None:
        return run.end()
    alone = number.end() > run.end()  # x45.5
    return read if alone else replace(read, start=figure_foreign.last_word(text, digits, read.end))


def _phrase(text: str, at: int) -> Figure | None:
    """A couple of minutes, the seventh minute: nobody's."""
    match = VAGUE.match(text, at) or ORDINAL.match(text, at)
    if match is None:
        return None
    end = match.end()
    alone = match[0].partition(" ")[0].lower() in NUMBER_WORDS  # dozens
    return Figure(match[0], at if alone else figure_foreign.last_word(text, at, end), end, math.inf, 1.0)


def _number(text: str, at: int) -> Figure | None:
    if text[at] in _VULGAR:
        return _measured(text, at, at + 1, _VULGAR[text[at]], 0.01)
    compact = _COMPACT.match(text, at)
    if compact is not None:
        minutes = int(compact[1]) * 60 + int(compact[2])
        return Figure(compact[0], at, compact.end(), minutes * 60.0, 60.0, Unit.DURATION, 60.0)
    if (comma := _COMMA.match(text, at)) is not None and _has_unit(text, comma):
        whole, _, rest = comma[0].partition(",")
        return _measured(text, at, comma.end(), float(f"{whole}.{rest}"), 10.0 ** -len(rest))
    match = _NUMBER.match(text, at)
    if match is None:
        return None
    digits = match[0].replace(",", "").replace("\u00a0", "").replace("\u202f", "")
    mantissa, _, exponent = digits.lower().partition("e")
    power = int(exponent or 0) - len(mantissa.partition(".")[2])
    step = 10.0**power if power < _MOST_DIGITS else 1.0  # what is larger is infinite, and nobody's
    end = match.end()
    if end < len(text) and text[end] in _VULGAR:  # 2½
        return _measured(text, at, end + 1, float(digits) + _VULGAR[text[end]], 0.01)
    more = _MORE_HALF.match(text, end)
    if more is not None and _unit_at(text, more.end()) is not None:  # 2 and a half hours
        half = 0.5 if more[1].lower() == "half" else 0.25
        return _measured(text, at, more.end(), float(digits) + half, 0.01)
    return _measured(text, at, end, float(digits), step)


def _has_unit(text: str, comma: re.Match[str]) -> bool:
    """Whether 4,5 is one number: 4,5 km, and 4,5 bis 6,0 km; of a list, it is two."""
    after = _COMMA_NEXT.match(text, comma.end())
    return _unit_at(text, comma.end() if after is None else after.end("next")) is not None


def _word(text: str, at: int) -> Figure | None:
    halves = _HALVES.match(text, at)
    if halves is not None:
        return _half(halves)
    twice = _TWICE.match(text, at)
    if twice is not None:
        return Figure(twice[0], at, twice.end(), 2.0 if twice[1] else 3.0, 1.0)
    unit = _A_UNIT.match(text, at)
    if unit is not None:
        return _and_half(text, _measured(text, at, unit.end(), 1.0, 1.0))
    match = _WORDS.match(text, at)
    if match is None or match[0].lower() in ("one", "a", "an"):
        return None
    value = value_of(match[0])
    more = _MORE_HALF.match(text, match.end())
    if more is not None and _unit_at(text, more.end()) is not None:  # two and a half hours
        value += 0.5 if more[1].lower() == "half" else 0.25
        return _measured(text, at, more.end(), value, 0.01)
    return _measured(text, at, match.end(), value, 1.0)


def _half(match: re.Match[str]) -> Figure:
    shown, start, end = match[0], match.start(), match.end()
    if match["hour"] or match["quarter_hour"]:
        minutes = 30.0 if match["hour"] else 45.0 if match["three"] else 15.0
        return Figure(shown, start, end, minutes * 60, 60.0, Unit.DURATION, 60.0)
    if match["quarters"]:
        return Figure(shown, start, end, 0.75 if match["three"] else 0.25, 0.01, Unit.SHARE)
    if match["thirds"]:
        return Figure(shown, start, end, 2 / 3 if match["two"] else 1 / 3, 0.01, Unit.SHARE)
    return Figure(shown, start, end, 0.5, 0.01, Unit.SHARE)


def _and_half(text: str, one: Figure) -> Figure:
    """An hour and a half."""
    more = _MORE_HALF.match(text, one.end)
    if more is None or one.unit is Unit.NONE:
        return one
    value = one.value + one.scale * (0.5 if more[1].lower() == "half" else 0.25)
    step = 60.0 if one.scale == 3600.0 else one.scale / 100
    return replace(one, text=text[one.start : more.end()], end=more.end(), value=value, step=step)


def _measured(text: str, start: int, end: int, value: float, step: float) -> Figure:
    """The number with the sign before and the unit behind it."""
    sign = 0
    if start and text[start - 1] in "-−+" and (start == 1 or text[start - 2] in " \t\n([:=\"'|"):
        sign = 1 if text[start - 1] == "+" else -1
    unit, scale = Unit.NONE, 1.0
    money = start and text[start - 1] == "$"
    found = _unit_at(text, end)
    times = _TIMES.match(text, end)
    if money:
        unit = Unit.MONEY
    elif found is not None:
        end, unit, scale = found
    elif times is not None:
        end = times.end()
    counts = unit is Unit.NONE and _FUNCTION_WORD.match(text, end) is None
    return Figure(text[start:end], start, end, value * scale, step * scale, unit, scale, sign, counts=counts)


def _unit_at(text: str, at: int) -> tuple[int, Unit, float] | None:
    for pattern, unit, scale in _UNITS:
        match = pattern.match(text, at)
        if match is not None:
            return match.end(), unit, scale
    foreign = figure_foreign.unit_at(text, at)
    return None if foreign is None else (foreign[0], Unit[foreign[1]], foreign[2])


def _with_units_of_the_next(text: str, found: list[Figure]) -> list[Figure]:
    """12 to 18 minutes: the first is minutes, too."""
    told = list(found)
    for place in range(len(told) - 2, -1, -1):
        one, after = told[place], told[place + 1]
        if one.unit is not Unit.NONE or not _LINK.match(text[one.end : after.start].removesuffix("$")):
            continue
        if after.unit in _INHERITED:
            scale = after.scale if not after.parts else 60.0
            told[place] = replace(
                one,
                value=one.value * scale,
                step=one.step * scale,
                unit=after.unit,
                scale=scale,
                counts=False,
            )
    return told


def _together(text: str, found: list[Figure]) -> list[Figure]:
    """1 hour 12 minutes: one duration."""
    told: list[Figure] = []
    for one in found:
        before = told[-1] if told else None
        if (
            before is not None
            and before.unit is Unit.DURATION is one.unit
            and before.scale > one.scale
            and before.step == before.scale
            and one.value < before.scale
            and one.sign == 0
            and _TOGETHER.match(text[before.end : one.start])
        ):
            told[-1] = replace(
                before,
                text=text[before.start : one.end],
                end=one.end,
                value=before.value + one.value,
                step=one.step,
                scale=one.scale,
                parts=(*(before.parts or (before,)), one),
            )
        else:
            told.append(one)
    return told


def _with_foreign(text: str, found: list[Figure]) -> list[Figure]:
    """Words of other languages, where no number of English stands."""
    foreign = sorted(figure_foreign.numbers_in(text))
    if not foreign:
        return found
    told: list[Figure] = []
    words = [Figure(text[start:end], known, end, math.inf, 1.0) for start, known, end in foreign]
    for one in sorted((*words, *found), key=lambda figure: (figure.start, -figure.end)):
        if not told or one.start >= told[-1].end:
            told.append(one)
    return told


_READERS: Final[tuple[Callable[[str, int], Figure | int | None], ...]] = (
    _date_or_clock,
    _position,
    _phrase,
    _skipped,
    _number,
    _word,
)
# Words with which a number, or a place in a list, may begin.
_TRIGGERS: Final = (
    NUMBER_WORDS
    | PHRASE_WORDS
    | figure_clock.WORDS
    | {"a", "an", "half", "quarter", "twice", "double", "doubled", "doubles", "thrice", "triple", "tripled"}
    | {
        f"{word}{end}"
        for word in ("step", "stop", "option", "alternative", "leg", "plan", "route")
        for end in ("", "s")
    }
)
