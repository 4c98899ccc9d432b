"""Whether a text repeats another word for word: answers are for customers, instructions of agents are not."""

from typing import Final

LEAST: Final = 80
"""Characters in a row, with all blanks taken for one, that are no chance."""

# As long a part of the original begins within any `LEAST` characters of it, at a multiple of its length.
_BLOCK: Final = LEAST // 2
# Places of one and the same part that are looked at.
_MOST_PLACES: Final = 8


class Repeats:
    """Looks for parts of one original; the work grows with the length of the texts alone."""

    def __init__(self, original: str) -> None:
        self._original = _one_blank(original)
        self._places: dict[str, list[int]] = {}
        for at in range(0, len(self._original) - _BLOCK + 1, _BLOCK):
            places = self._places.setdefault(self._original[at : at + _BLOCK], [])
            if len(places) < _MOST_PLACES:
                places.append(at)

    def within(self, text: str) -> bool:
        """Whether `LEAST` characters in a row of the original stand in the text."""
        text = _one_blank(text)
        return any(
            self._run(text, at, place) >= LEAST
            for at in range(len(text) - _BLOCK + 1)
            for place in self._places.get(text[at : at + _BLOCK], ())
        )

    def _run(self, text: str, at: int, place: int) -> int:
        """How much is the same around a place of each; not counted any further than matters."""
        original, before, after = self._original, 0, _BLOCK
        while (
            before < _BLOCK
            and min(at, place) > before
            and text[at - before - 1] == original[place - before - 1]
        ):
            before += 1
        most = min(LEAST, len(text) - at, len(original) - place)
        while after < most and text[at + after] == original[place + after]:
            after += 1
        return before + after


def _one_blank(text: str) -> str:
    return " ".join(text.split())
