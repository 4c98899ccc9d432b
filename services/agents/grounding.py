"""Whether a text's numbers are those that engines, tools and callers gave.

A number may be rounded to fewer digits and told in another unit of the same kind, if that is exact up to the
rounding. Nothing may be calculated: a sum or difference that no source gives is a number nobody gave.
"""

import re
from functools import partial
from typing import Final

from services.agents import figure_sources
from services.agents.figure_index import Masks, Moments, Numbers
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
        by_unit: dict[Unit, list[Given]] = {}
        for one in self._given.numbers:
            by_unit.setdefault(one.unit, []).append(one)
        self._by_unit = {unit: Numbers(given) for unit, given in by_unit.items()}
        # As their fields have them, for numbers without a unit.
        self._as_given = {
            unit: Numbers(Given(one.value / one.scale) for one in given)
            for unit, given in by_unit.items()
            if unit in _MEASURES
        }
        self._nothing = any(abs(one.value / one.scale) < 0.5 for one in self._given.numbers)
        self._instants = Moments(self._given.instants)
        self._clocks = Moments(figure_sources.clocks(self._given.instants))
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
        return numbers_in(self._masks.hide(text), place)

    def knows(self, figure: Figure) -> bool:
        """Whether a source gives this number."""
        if figure.parts and all(self.knows(part) for part in figure.parts):
            return True
        values = (figure.value, *figure.others)
        match figure.unit:
            case Unit.CLOCK:
                return any(self._is_clock(value, figure.step) for value in values)
            case Unit.DATE:
                return any(value in self._days or self._exactly(Unit.DATE, value) for value in values)
            case Unit.INSTANT:
                return self._instants.told(figure.value, figure.step)
            case Unit.POSITION:
                return 1 <= figure.value <= self._given.longest or self._is_number(figure)
            case _:
                return self._is_number(figure)

    def _is_clock(self, value: float, step: float) -> bool:
        return self._clocks.told(value, step) or self._exactly(Unit.CLOCK, value)

    def _exactly(self, unit: Unit, value: float) -> bool:
        return any(one.value == value for one in self._near(unit, value, 0.0))

    def _near(self, unit: Unit, value: float, reach: float) -> list[Given]:
        numbers = self._by_unit.get(unit)
        return [] if numbers is None else numbers.near(value, reach)

    def _is_number(self, figure: Figure) -> bool:
        reach = _reach(figure)
        if any(_is(figure, one) for one in self._near(figure.unit, figure.value, reach)):
            return True
        if figure.unit is not Unit.NONE and figure.unit is not Unit.POSITION:
            return False
        if figure.value in self._years and figure.step == 1.0:
            return True
        if figure.value == 0 and self._nothing:
            return True  # nothing is nothing, in whatever unit
        if figure.unit is Unit.POSITION:
            return any(_is(figure, one) for one in self._near(Unit.NONE, figure.value, reach))
        share = figure.step <= _LARGEST_SHARE_STEP or figure.value in (0.0, 1.0)
        if share and any(_is_share(figure, one) for one in self._near(Unit.SHARE, figure.value, reach)):
            return True
        return not figure.counts and any(
            _is(figure, one) for given in self._as_given.values() for one in given.near(figure.value, reach)
        )


_MEASURES: Final = frozenset({Unit.DURATION, Unit.DISTANCE, Unit.SPEED, Unit.TEMPERATURE, Unit.MONEY})


def _reach(figure: Figure) -> float:
    """How far a number may be from the written one at most: more than `_is` lets it."""
    return figure.step / 2 + 10 * _SLACK * max(abs(figure.value), figure.step, figure.scale)


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


def _masks(ids: set[str], names: set[str]) -> Masks:
    """Where ids and names from outside stand in a text, whose digits are no numbers of the answer.

    An id that reads as a number or measure has to stand where an id does; a name that reads as a measure,
    such as `in 5 minutes`, is none.
    """
    masks = Masks()
    for one in sorted(ids, key=len, reverse=True):
        if not _TOKEN.fullmatch(one):
            continue
        found = numbers_in(one)
        plain = all(figure.unit is Unit.NONE and figure.text != one for figure in found)
        if plain and any(char.isalpha() for char in one) and any(char.isdigit() for char in one):
            masks.add(one, partial(_compiled, rf"(?<![\w]){re.escape(one)}{_NO_MEASURE}"))
        else:
            pattern = rf"{_ID_WORDS}(?P<id>{re.escape(one)}){_NO_MEASURE}"
            masks.add(one, partial(_compiled, pattern, re.IGNORECASE))
    for one in sorted(names, key=len, reverse=True):
        if not any(char.isalpha() for char in one):
            continue
        if all(figure.unit is Unit.NONE and figure.text != one for figure in numbers_in(one)):
            masks.add(one, partial(_compiled, rf"(?<!\w){re.escape(one)}{_NO_MEASURE}"))
    return masks


def _compiled(pattern: str, flags: int = 0) -> re.Pattern[str]:
    return re.compile(pattern, flags)
