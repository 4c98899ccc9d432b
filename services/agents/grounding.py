"""Whether a text's numbers are those that engines, tools and callers gave.

A number may be rounded to fewer digits and told in another unit of the same kind, if that is exact up to the
rounding. Nothing may be calculated: a sum or difference that no source gives is a number nobody gave.
"""

import math
import re
from typing import Final

from services.agents import figure_sources
from services.agents.figure_sources import Given, collect
from services.agents.figures import Figure, Unit, numbers_in
from services.agents.stream_guard import Guard, Ungrounded

__all__ = ["Grounds", "Guard", "Ungrounded", "numbers_in"]

# What rounding in binary adds to a decimal half, as a share of the value.
_SLACK: Final = 1e-9
# A whole number of a coarser unit has to be nearly what it rounds: 58 min is an hour, 40 is not.
_COARSE: Final = 0.05
# A share is known to be one by a percent sign or its decimals; plain 0 and 1 only if they are exact.
_LARGEST_SHARE_STEP: Final = 0.1
_DAY_S: Final = 86400.0
_KINDS: Final = r"(?:orders?|couriers?|drivers?|deliver(?:y|ies))"
# `no` is a word for a number behind what it numbers, or with a dot: `no 5 couriers` says that there are none.
_ID_WORDS: Final = (
    rf"(?:\b(?:(?:{_KINDS} )?no\.|{_KINDS} no\b|(?:{_KINDS} )?(?:id|number)\b|{_KINDS}\b)"
    r"[:=]? ?[\"'#`(]?|[#\"'`])"
)
_TOKEN: Final = re.compile(r"[\w.:@/#+~-]{1,128}")
# What is an id or name is not the number of a measure.
_NO_MEASURE: Final = (
    r"(?!\w|[.,:]\d|[ -]?(?:min|minutes?|h|hours?|km|k?m|s|sec\w*|%|per ?cent|°|degrees?)\b|[ -]?[%°])"
)


class Grounds:
    """The numbers that a text may name. Sources: messages, mappings and lists of plain values, and texts."""

    def __init__(self, *sources: object) -> None:
        self._given = collect(sources)
        self._by_unit: dict[Unit, list[Given]] = {}
        for one in self._given.numbers:
            self._by_unit.setdefault(one.unit, []).append(one)
        self._clocks = figure_sources.clocks(self._given.instants)
        self._days = figure_sources.days(self._given.instants)
        self._years = figure_sources.years(self._given.instants)
        self._masks = _masks(self._given.ids, self._given.names)

    def ungrounded(self, text: str) -> list[str]:
        """The numbers of the text that no source gives, as they are written, in their order."""
        return [figure.text for figure in self.figures(text) if not self.knows(figure)]

    def figures(self, text: str, place: int = 0) -> list[Figure]:
        """The numbers of the text but for those in ids and names that the sources give.

        `place`: where a list that goes on in the text has come to.
        """
        for mask in self._masks:
            text = mask.sub(_blanks, text)
        return numbers_in(text, place)

    def knows(self, figure: Figure) -> bool:
        """Whether a source gives this number."""
        if figure.parts and all(self.knows(part) for part in figure.parts):
            return True
        values = (figure.value, *figure.others)
        match figure.unit:
            case Unit.CLOCK:
                return any(self._is_clock(value, figure.step) for value in values)
            case Unit.DATE:
                return any(value in self._days for value in values) or any(
                    one.value in values for one in self._by_unit.get(Unit.DATE, ())
                )
            case Unit.INSTANT:
                return any(
                    _floored_or_rounded(each, figure.value, figure.step) for each in self._given.instants
                )
            case Unit.POSITION:
                return 1 <= figure.value <= self._given.longest or self._is_number(figure)
            case _:
                return self._is_number(figure)

    def _is_clock(self, value: float, step: float) -> bool:
        if any(_floored_or_rounded(each, value, step) for each in self._clocks):
            return True
        return any(one.value == value for one in self._by_unit.get(Unit.CLOCK, ()))

    def _is_number(self, figure: Figure) -> bool:
        if any(_is(figure, one) for one in self._by_unit.get(figure.unit, ())):
            return True
        if figure.unit is not Unit.NONE and figure.unit is not Unit.POSITION:
            return False
        if figure.value in self._years and figure.step == 1.0:
            return True
        if figure.value == 0 and any(abs(one.value / one.scale) < 0.5 for one in self._given.numbers):
            return True  # nothing is nothing, in whatever unit
        if figure.unit is Unit.POSITION:
            return any(_is(figure, one) for one in self._by_unit.get(Unit.NONE, ()))
        for unit, given in self._by_unit.items():
            if unit is Unit.SHARE and (figure.step <= _LARGEST_SHARE_STEP or figure.value in (0.0, 1.0)):
                if any(_is_share(figure, one) for one in given):
                    return True
            elif unit in _MEASURES and not figure.counts and any(_is_as_given(figure, one) for one in given):
                return True
        return False


_MEASURES: Final = frozenset({Unit.DURATION, Unit.DISTANCE, Unit.SPEED, Unit.TEMPERATURE, Unit.MONEY})


def _is(figure: Figure, one: Given) -> bool:
    """Whether a number of the same unit rounds to the written one."""
    given = one.value
    if (figure.sign < 0 < given) or (figure.sign > 0 > given):
        return False
    value = -figure.value if figure.sign < 0 else figure.value
    if not figure.sign:
        given = abs(given) if value >= 0 else given
    error = abs(given - value)
    if error > figure.step / 2 + _SLACK * max(abs(given), figure.scale):
        return False
    coarse = figure.scale > 60 and figure.scale > one.scale and figure.step >= figure.scale
    return not coarse or error <= _COARSE * abs(given)


def _is_share(figure: Figure, one: Given) -> bool:
    if figure.step > _LARGEST_SHARE_STEP:
        return one.value == figure.value
    return _is(figure, one)


def _is_as_given(figure: Figure, one: Given) -> bool:
    """A number without a unit, as the field that gives it has it."""
    return _is(figure, Given(one.value / one.scale))


def _floored_or_rounded(given: float, value: float, step: float) -> bool:
    """People cut seconds off a time as often as they round it."""
    floored = math.floor(given / step) * step
    nearest = math.floor(given / step + 0.5) * step
    return value in (floored, nearest) or (value == 0.0 and nearest == _DAY_S)


def _masks(ids: set[str], names: set[str]) -> list[re.Pattern[str]]:
    """Where ids and names from outside stand in a text, whose digits are no numbers of the answer.

    An id that reads as a number or measure has to stand where an id does; a name that reads as a measure,
    such as `in 5 minutes`, is none.
    """
    masks = []
    for one in sorted(ids, key=len, reverse=True):
        if not _TOKEN.fullmatch(one):
            continue
        found = numbers_in(one)
        plain = all(figure.unit is Unit.NONE and figure.text != one for figure in found)
        if plain and any(char.isalpha() for char in one) and any(char.isdigit() for char in one):
            masks.append(re.compile(rf"(?<![\w]){re.escape(one)}{_NO_MEASURE}"))
        else:
            masks.append(re.compile(rf"{_ID_WORDS}(?P<id>{re.escape(one)}){_NO_MEASURE}", re.IGNORECASE))
    for one in sorted(names, key=len, reverse=True):
        if not any(char.isalpha() for char in one):
            continue
        if all(figure.unit is Unit.NONE and figure.text != one for figure in numbers_in(one)):
            masks.append(re.compile(rf"(?<!\w){re.escape(one)}{_NO_MEASURE}"))
    return masks


def _blanks(match: re.Match[str]) -> str:
    """As long as what stood there, so that places in the text stay the same."""
    if "id" in match.re.groupindex:
        head = match.start("id") - match.start()
        return match[0][:head] + "_" * (len(match[0]) - head)
    return "_" * len(match[0])
