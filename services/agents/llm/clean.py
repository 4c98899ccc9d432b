"""Text of a server as it may go on: whole characters, and no controls but line feed and tab."""

import re
from typing import Final

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_HIGH: Final = re.compile(r"[\ud800-\udbff]\Z")


def clean(text: str) -> str:
    """The text with controls left out, and U+FFFD for half a character, which has no UTF-8.

    Halves that belong together become one.
    """
    if not text.isprintable():
        text = _CONTROLS.sub("", text)
        if _SURROGATE.search(text) is not None:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class Cleaner:
    """The same for a text in pieces: what is half a character at the end of one waits for the next."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """The part that is whole."""
        piece = self._half + piece
        self._half = ""
        if _HIGH.search(piece) is not None:
            piece, self._half = piece[:-1], piece[-1]
        return clean(piece)

    def rest(self) -> str:
        """What is left when no more comes."""
        half, self._half = self._half, ""
        return clean(half)
