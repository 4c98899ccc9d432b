"""Links in a text. An answer has none: one that a model was talked into could carry data away."""

import re
from typing import Final

_LINK: Final = re.compile(
    r"[a-z][a-z0-9+.-]{1,20}://|\b(?:www\.|mailto:|javascript:|data:[a-z]+/)|!?\[[^\]\n]{0,500}\]\(|<(?:a|img|iframe|script)\b",
    re.IGNORECASE,
)


def has_link(text: str) -> bool:
    """Whether something in the text leads elsewhere, or would if it were shown as markup."""
    return _LINK.search(text) is not None
