"""Text that streams, held back where a number may still be growing, and ended where one is nobody's."""

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.agents.grounding import Grounds

# What follows a number within this many characters may still be its unit, or the rest of it.
_LOOK_AHEAD: Final = 40
# Text before the part that is not let go yet that is read along, at most, so that words keep their sense.
_LOOK_BACK: Final = 200
_STOP: Final = re.compile(r"\n|[.!?;](?=\s)")
_HEAD: Final = re.compile(r"\n[^\n]*\Z")


class Ungrounded(Exception):  # noqa: N818 - it says what the number is
    """A number came that nobody gave. `number`: as it was written."""

    def __init__(self, number: str) -> None:
        super().__init__(f"nobody gave the number {number}")
        self.number = number


class Guard:
    """Lets a text through piece by piece; no number is let go before it is complete and known."""

    def __init__(self, grounds: "Grounds") -> None:
        self._grounds = grounds
        self._text = ""
        self._shown = 0

    def anew(self) -> "Guard":
        """A guard of the same grounds for another text."""
        return Guard(self._grounds)

    def feed(self, piece: str) -> str:
        """The part that may be shown now, maybe nothing. Raises Ungrounded at a number nobody gave."""
        self._text += piece
        return self._release(self._settled())

    def finish(self) -> str:
        """The rest, when no more will come. Raises Ungrounded."""
        return self._release(len(self._text), over=True)

    def _release(self, until: int, *, over: bool = False) -> str:
        base = self._base()
        for figure in self._grounds.strangers(self._text[base:]):
            if over or base + figure.start < until:
                raise Ungrounded(figure.text)
        safe = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return safe

    def _settled(self) -> int:
        """Up to where nothing that may come changes what the numbers are."""
        text, base = self._text, self._base()
        # A word that is not over may become a number.
        words = re.search(r"\S*\Z", text)
        settled = words.start() if words is not None else len(text)
        # A few words may: `an hour`, `two and a half hours`, `half past seven`.
        opening = re.search(
            r"(?:\b(?:an?|one|half|quarter|of|and|to|past|minus|plus)\s+)+\Z", text[:settled], re.I
        )
        if opening is not None:
            settled = opening.start()
        for figure in reversed(self._grounds.figures(text[base:])):
            start, end = base + figure.start, base + figure.end
            stop = _STOP.search(text, end)
            sure = stop is not None and (settled >= stop.end() or settled > end + _LOOK_AHEAD)
            if (not sure and settled < end + _LOOK_AHEAD) or settled < end:
                settled = min(settled, start)
        return max(settled, self._shown)

    def _base(self) -> int:
        """Where reading begins: the head of the line, if that is not too far back."""
        head = self._text.rfind("\n", 0, self._shown) + 1
        return head if self._shown - head <= _LOOK_BACK else self._word_head(self._shown - _LOOK_BACK)

    def _word_head(self, at: int) -> int:
        space = self._text.rfind(" ", 0, at)
        return space + 1 if space >= 0 else 0
