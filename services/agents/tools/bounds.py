"""Results cut to a size: still JSON, and saying what was left out."""

import json
from collections.abc import Mapping
from typing import Any, Final

from services.agents.tools.untrusted import cut

MAX_BYTES: Final = 8192
_OMITTED: Final = "omitted"
# Rows of a list and characters of a text at first; halved until the result fits.
_FIRST_ITEMS: Final = 64
_FIRST_CHARS: Final = 512
# Digits that still mean something: 0.1 m in degrees, a second in hours.
_DIGITS: Final = 6
_TOO_LARGE: Final = {"error": "the result is too large"}


def dump(value: Any) -> str:
    """Plain JSON without white space."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def bounded(result: Mapping[str, Any], max_bytes: int = MAX_BYTES) -> tuple[dict[str, Any], str]:
    """The result and its JSON, of at most `max_bytes` UTF-8 bytes.

    Lists lose their ends, and an object beside them says `"omitted": n`; texts are cut with `…`.
    """
    items, chars = _FIRST_ITEMS, _FIRST_CHARS
    while True:
        cut = _cut(result, items, chars)
        text = dump(cut)
        if len(text.encode()) <= max_bytes:
            return cut, text
        if items == 0 and chars <= 8:
            return dict(_TOO_LARGE), dump(_TOO_LARGE)
        items, chars = items // 2, max(chars // 2, 8)


def _cut(value: Any, items: int, chars: int) -> Any:
    if isinstance(value, Mapping):
        out: dict[str, Any] = {}
        omitted = 0
        for name, each in value.items():
            if isinstance(each, list | tuple) and len(each) > items:
                omitted += len(each) - items
            out[name] = _cut(each, items, chars)
        if omitted:
            out[_OMITTED] = omitted + int(out.get(_OMITTED, 0))
        return out
    if isinstance(value, list | tuple):
        return [_cut(each, items, chars) for each in value[:items]]
    if isinstance(value, str):
        return cut(value, chars)
    if isinstance(value, float):
        return _plain(value)
    return value


def _plain(value: float) -> float | int | None:
    """A number as JSON has it; what is none, such as infinity, is not known."""
    if value != value or value in (float("inf"), float("-inf")):
        return None
    rounded = round(value, _DIGITS)
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 2**53 else rounded
