"""Bounds what is looked at of a value, so that the largest input takes the loop no longer than a small one.

What is left out stands as LEFT_OUT. Text is cut with its secrets out: a part of a secret at the cut would not
be known as one any more.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Final

from services.mesh.redact import MAX_DEPTH, redact_text

LEFT_OUT: Final = "[left out: too large]"
# Of one payload: values of any kind, and characters of text in all and in one.
_MAX_NODES: Final = 500
_MAX_CHARS: Final = 8_192
_MAX_TEXT: Final = 4_096
# How much more is looked at, for secrets that reach over the cut: private keys are the longest.
_MARGIN: Final = 4_096


class Clip:
    """Copies one payload as far as the bounds let it; `left_out` tells whether it is not the whole."""

    def __init__(self) -> None:
        self.left_out = False
        self._nodes = _MAX_NODES
        self._chars = _MAX_CHARS

    def __call__(self, value: object, depth: int = MAX_DEPTH) -> object:
        """`value` within bounds. Raises what the value's own code raises."""
        self._nodes -= 1
        if isinstance(value, str):
            return self._text(value)
        if value is None or isinstance(value, bool | int | float | bytes | bytearray | memoryview):
            return value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        if depth < 0:  # whoever reads it further says so
            return value
        if isinstance(value, Mapping):
            return self._mapping(value, depth - 1)
        if isinstance(value, Sequence | AbstractSet):
            return self._items(value, depth - 1)
        return value

    def _mapping(self, value: Mapping[object, object], depth: int) -> object:
        clipped: dict[object, object] = {}
        for key, item in value.items():
            if self._full():
                clipped[LEFT_OUT] = None
                break
            clipped[self._text(key) if isinstance(key, str) else key] = self(item, depth)
        return clipped

    def _items(self, value: Iterable[object], depth: int) -> list[object]:
        clipped: list[object] = []
        for item in islice(value, _MAX_NODES + 1):
            if self._full():
                clipped.append(LEFT_OUT)
                break
            clipped.append(self(item, depth))
        return clipped

    def _text(self, text: str) -> str:
        bound = max(0, min(_MAX_TEXT, self._chars))
        self._chars -= min(len(text), bound)
        if len(text) <= bound:
            return text
        self.left_out = True
        return clip_text(text, max(1, bound - len(LEFT_OUT))) + LEFT_OUT

    def _full(self) -> bool:
        if self._nodes <= 0 or self._chars <= 0:
            self.left_out = True
            return True
        return False


def clip_text(text: str, bound: int = _MAX_TEXT, *, from_end: bool = False) -> str:
    """The beginning or the end of a text, at most `bound` characters, its secrets out if it was cut."""
    if len(text) <= bound:
        return text
    # Text that is looked at whole has no secret that is cut; else what is near the cut is left out.
    margin = _MARGIN if len(text) > bound + _MARGIN else 0
    if from_end:
        return redact_text(text[-bound - _MARGIN :])[margin:][-bound:]
    return redact_text(text[: bound + _MARGIN])[: -margin or None][:bound]
