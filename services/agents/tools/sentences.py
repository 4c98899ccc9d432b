"""Sentences that an engine of ours wrote: their numbers are the engine's, their names are from outside."""

import re
from collections.abc import Iterable
from typing import Final

from services.agents.tools.untrusted import cleaned

# Where route's sentences name orders, couriers and skills; all of these are texts from outside.
_NAMING: Final = (
    (re.compile(r"^goes with .*?(?=: -?[\d.]+ min more for the courier$|$)", re.S), "goes with other orders"),
    (re.compile(r"^has the skills .*$", re.S), "has the skills it needs"),
    (re.compile(r"^no courier has the skills .*$", re.S), "no courier has the skills it needs"),
    (re.compile(r"(?<= of work cheaper than ).*(?=, the next best$)", re.S), "another courier"),
    (re.compile(r"^.*(?= would be -?[\d.]+ min of work cheaper but is needed)", re.S), "another courier"),
)
_MAX_CHARS: Final = 300
_WORD: Final = re.compile(r"[^\W\d_]{2}")


def engine_text(text: str, others: Iterable[str] = ()) -> str:
    """The sentence without names from outside; `others` are ids that must not stand in it.

    Engines write plain lines. What is none is not theirs, whatever it says: empty.
    """
    for pattern, instead in _NAMING:
        text = pattern.sub(instead, text)
    for other in sorted(others, key=len, reverse=True):
        # An id such as `12` or `min` is as well a part of what is said; where ids stand is seen to above.
        if any(char.isalpha() for char in other) and any(char.isdigit() or char in "_-" for char in other):
            text = re.sub(rf"(?<![\w.]){re.escape(other)}(?!\w)", "another", text)
    text = text.strip()
    own = _WORD.search(text) is not None and cleaned(text, _MAX_CHARS, "NFC") == text
    # They write numbers in plain digits alone.
    own = own and not any(char.isnumeric() and not char.isascii() for char in text)
    return text if own else ""
