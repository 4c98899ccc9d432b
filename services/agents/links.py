"""Links in a text. An answer has none: one that a model was talked into could carry data away."""

import re
import unicodedata
from typing import Final

# Many programs make a link of a bare name that ends in one of these.
_ENDINGS: Final = (
    "com|net|org|edu|gov|info|biz|io|ai|dev|app|co|me|xyz|top|site|online|cloud|link|click|live|shop|store|tech|page"
    "|web|test|example|invalid|local|onion"
)
_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?"
_LINK: Final = re.compile(
    r"[a-z][a-z0-9+.-]{1,20}://"
    r"|\b(?:www\.|mailto:|javascript:|data:[a-z]+/)"
    r"|!?\[[^\]\n]{0,500}\]\("
    r"|<(?:a|img|iframe|script|svg|link|form)\b"
    rf"|(?<![\w.-])(?:{_LABEL}\.){{1,8}}(?:{_ENDINGS})(?![\w-])"
    rf"|(?<![\w.-])(?:{_LABEL}\.){{1,8}}[a-z]{{2,24}}(?::\d|/[\w?%.~-]|\?\w)"
    r"|(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?::\d|/)",
    re.IGNORECASE,
)
_PLAIN: Final = re.compile(r"[\x20-\x7e\n]*")


def has_link(text: str) -> bool:
    """Whether something in the text leads elsewhere, or would if it were shown as markup."""
    if _PLAIN.fullmatch(text) is None:
        # Letters that look like others, and characters that cannot be seen between them.
        text = unicodedata.normalize("NFKC", text).replace("\u3002", ".")
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return _LINK.search(text) is not None
