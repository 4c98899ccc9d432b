"""Texts from outside, such as names of merchants and items: data for a model, never instructions.

They are cut, freed of what hides or frames text (control and direction marks, fences, tags, role marks) and
put under one key, so that a prompt can say what that key holds.
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final, Literal

KEY: Final = "untrusted_text"
MAX_CHARS: Final = 120
MAX_ITEMS: Final = 10

# Frames that prompts and chat formats are made of.
_FRAMES: Final = re.compile(
    r"`{2,}|~{3,}|<[|/!]?|[|/]?>|\[/?INST\]|\{\{|\}\}|#{2,}|-{3,}|={3,}|\"{3,}|'{3,}", re.I
)
_ROLES: Final = re.compile(r"\b(system|assistant|developer|user|tool|function)\s*:", re.I)
_SPACE: Final = re.compile(r"\s+")
_HIDDEN: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})


def cleaned(text: str, limit: int = MAX_CHARS, form: Literal["NFC", "NFKC"] = "NFKC") -> str:
    """The text on one line, without what hides or frames, at most `limit` characters.

    NFKC makes letters that only look alike the same; it makes numbers of `½` and `①`, too.
    """
    text = unicodedata.normalize(form, text[: limit * 8])
    text = "".join(" " if unicodedata.category(each) in _HIDDEN else each for each in text)
    text = _ROLES.sub(r"\1", _FRAMES.sub(" ", text))
    text = _SPACE.sub(" ", text).strip()
    return cut(text, limit)


def cut(text: str, limit: int) -> str:
    """At most `limit` characters, none of them a part of a number or word, where words are not that long."""
    if len(text) <= limit:
        return text
    head, _, _ = text[:limit].rpartition(" ")
    return (head or text[: limit - 1]).rstrip() + "…"


def texts(**named: Any) -> dict[str, Any]:
    """Texts under the key that says what they are; nothing if all are empty."""
    kept = {name: kept for name, value in named.items() if (kept := _kept(value))}
    return {KEY: kept} if kept else {}


def _kept(value: Any) -> Any:
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, Mapping):
        pairs = list(value.items())[:MAX_ITEMS]
        return {cleaned(key, 64): cleaned(each) for key, each in pairs if cleaned(each)}
    return [text for each in list(value)[:MAX_ITEMS] if (text := cleaned(each))]
