"""Links and HTML in a text. An answer has none: what a model was talked into could carry data away."""

import re
import unicodedata
from typing import Final

# Many programs make a link of a bare name that ends in one of these.
_ENDINGS: Final = (
    "com|net|org|edu|gov|info|biz|app|xyz|top|site|online|cloud|link|click|live|shop|store|tech|page|dev"
    "|web|test|example|invalid|local|onion|xn--[a-z0-9-]{2,59}|рф|中国"
)
# Two letters may also be the next sentence's first word where a blank is missing; that costs a correction.
_COUNTRIES: Final = (
    "ac|ae|ai|ar|at|au|ba|be|bg|br|by|ca|cc|cf|ch|cl|cn|co|cz|de|dk|ee|es|eu|fi|fm|fr|ga|gg|gq|gr|hk|hr|hu|ie|il"
    "|in|io|ir|is|it|jp|ke|kr|kz|li|lt|lu|lv|ly|me|ml|mx|ng|nl|no|nu|nz|pe|ph|pk|pl|pt|pw|ro|rs|ru|sa|se|sg|si|sk"
    "|su|th|tk|to|tr|tv|tw|ua|uk|us|vc|vn|ws|za"
)
_LABEL: Final = r"\w(?:[\w-]{0,62}\w)?"
_HOST: Final = rf"(?<![\w.-])(?:{_LABEL}\.){{1,8}}"
_LINK: Final = re.compile(
    r"[a-z][a-z0-9+.-]{1,20}://"
    r"|\b(?:www\.|mailto:|javascript:|data:[a-z]+/)"
    r"|!?\[[^\]\n]{0,500}\](?:\(|[ \t]\([^\s()]{0,200}[/.:#?])"
    rf"|{_HOST}(?:{_ENDINGS})(?![\w-])"
    rf"|(?<![\w.-])(?!(?:\d+\.)+[a-z])(?:{_LABEL}\.){{1,8}}(?:{_COUNTRIES})(?![\w-])"
    rf"|{_HOST}[a-z]{{2,24}}(?::\d|/[\w?%.~-]|\?\w)"
    r"|(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?::\d|/)",
    re.IGNORECASE,
)
_MARKUP: Final = re.compile(
    r"<(?:a|img|iframe|script|style|svg|link|form|input|button|video|audio|object|embed|meta|base)\b"
    r"|</?[a-z][a-z0-9-]{0,30}\s{0,9}/?>"
    r"|<[a-z][a-z0-9-]{0,30}\s[^<>=]{0,100}=[^<>]{0,300}>"
    r"|<!(?:--|[a-z])",
    re.IGNORECASE,
)
LONGEST: Final = 700
"""As much text as a link may take until it is known for one, in characters."""
_PLAIN: Final = re.compile(r"[\x20-\x7e\n]*")


def has_link(text: str) -> bool:
    """Whether something in the text leads elsewhere, or would if it were shown as markup."""
    if _PLAIN.fullmatch(text) is None:
        # Letters that look like others, and characters that cannot be seen between them.
        text = unicodedata.normalize("NFKC", text).replace("\u3002", ".")
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return _LINK.search(text) is not None or _MARKUP.search(text) is not None
