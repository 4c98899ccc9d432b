"""Text that streams, held back where a number may still be growing, and ended where one is nobody's."""

import re
from typing import TYPE_CHECKING, Final

from services.agents.figures import Figure, place_after

if TYPE_CHECKING:
    from services.agents.grounding import Grounds

# What follows a number within this many characters may still be its unit, or the rest of it.
_LOOK_AHEAD: Final = 40
# Text before the part that is not let go yet that is read along, at most, so that words keep their sense.
_LOOK_BACK: Final = 200
# More text than this is not held back: it is not looked at any more.
_MOST_HELD: Final = 600
_STOP: Final = re.compile(r"\n|[.!?;](?=\s)")
_LAST_WORD: Final = re.compile(r"\S*\Z")
# So may a number begin: `an hour`, `two and a half hours`, `half past seven`.
_OPENING: Final = re.compile(r"(?:\b(?:an?|one|half|quarter|of|and|to|past|minus|plus)\s+)+\Z", re.IGNORECASE)


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
        self._base = 0
        self._place = 0

    @property
    def held(self) -> int:
        """Characters that are held back, and read again with the next piece."""
        return len(self._text) - self._shown

    def anew(self) -> "Guard":
        """A guard of the same grounds for another text."""
        return Guard(self._grounds)

    def feed(self, piece: str) -> str:
        """The part that may be shown now, maybe nothing.

        Raises Ungrounded at a number nobody gave, and where no end of a number comes for too long.
        """
        self._text += piece
        figures = self._figures()
        settled = self._settled(figures)
        if len(self._text) - settled > _MOST_HELD:
            # Numbers without end, each of which may still become part of another: read anew at every piece.
            raise Ungrounded(self._text[settled:][:_LOOK_AHEAD])
        return self._release(figures, settled)

    def finish(self) -> str:
        """The rest, when no more will come. Raises Ungrounded."""
        return self._release(self._figures(), len(self._text))

    def _figures(self) -> list[tuple[int, int, Figure]]:
        """Numbers near and after what was shown: where they begin and end, and what they are."""
        head = self._head()
        if head > self._base:
            self._place = place_after(self._text[self._base : head], self._place)
            self._base = head
        found = self._grounds.figures(self._text[head:], self._place)
        return [(head + one.start, head + one.end, one) for one in found]

    def _release(self, figures: list[tuple[int, int, Figure]], until: int) -> str:
        for start, _, figure in figures:
            if start < until and not self._grounds.knows(figure):
                raise Ungrounded(figure.text)
        safe = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return safe

    def _settled(self, figures: list[tuple[int, int, Figure]]) -> int:
        """Up to where nothing that may come changes what the numbers are."""
        text = self._text
        # A word that is not over may become a number.
        begin = max(self._shown, len(text) - _LOOK_BACK)
        tail = text[begin:]
        settled = begin + len(tail) - len(_LAST_WORD.search(tail)[0])  # type: ignore[index]
        opening = _OPENING.search(tail, 0, settled - begin)
        if opening is not None:
            settled = begin + opening.start()
        for start, end, _ in reversed(figures):
            # A unit may stand on the next line.
            stop = _STOP.search(text, end + (text[end : end + 1] == "\n"))
            sure = stop is not None and (settled >= stop.end() or settled > end + _LOOK_AHEAD)
            if (not sure and settled < end + _LOOK_AHEAD) or settled < end:
                settled = min(settled, start)
        return max(settled, self._shown)

    def _head(self) -> int:
        """Where reading begins: the head of the line, if that is not too far back."""
        head = self._text.rfind("\n", 0, self._shown) + 1
        return head if self._shown - head <= _LOOK_BACK else self._word_head(self._shown - _LOOK_BACK)

    def _word_head(self, at: int) -> int:
        """The head of a word near by; a text without blanks is read from the place itself on."""
        space = self._text.rfind(" ", max(0, at - _LOOK_BACK), at)
        return space + 1 if space >= 0 else at
