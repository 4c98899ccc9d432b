"""Numbers and names that sources give, found without a look at all of them: there may be thousands."""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from typing import Final

from services.agents.figure_sources import Given

_DAY_S: Final = 86400.0
# What of a text stands in the place of a mask's pattern is as long as what stood there.
_HIDDEN: Final = "_"


class Numbers:
    """Numbers of one unit by their size."""

    def __init__(self, given: Iterable[Given]) -> None:
        self._given = sorted(given, key=_size)
        self._sizes = [_size(one) for one in self._given]

    def near(self, value: float, reach: float) -> list[Given]:
        """Those whose size differs from the value's by `reach` at most."""
        size = abs(value)
        if not math.isfinite(size) or not math.isfinite(reach):
            return []
        first = bisect_left(self._sizes, size - reach)
        return self._given[first : bisect_right(self._sizes, size + reach, lo=first)]


class Moments:
    """Times in seconds, as people tell them: rounded, or with the rest cut off."""

    def __init__(self, seconds: Iterable[float]) -> None:
        self._seconds = tuple(seconds)
        self._told: dict[float, frozenset[float]] = {}

    def told(self, value: float, step: float) -> bool:
        """Whether one of them is the value, told in steps of this size."""
        known = self._told.get(step)
        if known is None:
            floored = {math.floor(one / step) * step for one in self._seconds}
            nearest = {math.floor(one / step + 0.5) * step for one in self._seconds}
            midnight = {0.0} if _DAY_S in nearest else set()
            known = self._told[step] = frozenset(floored | nearest | midnight)
        return value in known


class Masks:
    """Texts whose digits are no numbers, each with the pattern of where it stands."""

    def __init__(self) -> None:
        self._made: list[tuple[str, Callable[[], re.Pattern[str]]]] = []
        self._patterns: dict[str, re.Pattern[str]] = {}

    def add(self, one: str, pattern: Callable[[], re.Pattern[str]]) -> None:
        """`pattern` is made when `one` stands in a text, in whatever case."""
        self._made.append((one.lower(), pattern))

    def hide(self, text: str) -> str:
        """The text with all of them hidden; a group `id` of a pattern is all that it hides."""
        lower = text.lower()
        for place, (one, pattern) in enumerate(self._made):
            if one in lower:
                key = str(place)
                found = self._patterns.get(key)
                if found is None:
                    found = self._patterns[key] = pattern()
                text = found.sub(_blanks, text)
        return text


def _size(one: Given) -> float:
    return abs(one.value)


def _blanks(match: re.Match[str]) -> str:
    """As long as what stood there, so that places in the text stay the same."""
    head = match.start("id") - match.start() if "id" in match.re.groupindex else 0
    return match[0][:head] + _HIDDEN * (len(match[0]) - head)
