"""Names as the contract takes them: they can be seen, and do nothing to a terminal or to text around them."""

import re
from typing import Final

# Control characters, and those that turn the direction of what follows.
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SEEN: Final = re.compile("[^ \u00a0\u1680\u2000-\u200b\u2028\u2029\u202f\u205f\u3000\ufeff]")


def is_name(text: str) -> bool:
    """Whether the contract takes this as a name, where it may be empty."""
    if text.isprintable():  # of blanks, only the common one is
        return not text.startswith(" ") or bool(text.strip(" "))
    return _CONTROLS.search(text) is None and _SEEN.search(text) is not None


def clean_name(text: str) -> str:
    """The name, U+FFFD for each such character; empty if it is nothing but blanks. No longer than it was."""
    if is_name(text):
        return text
    text = _CONTROLS.sub("\ufffd", text)
    return text if _SEEN.search(text) is not None else ""
