"""Takes what is secret out of values before they are stored, logged or published.

Pure: the value given stays as it is, a new one comes back. Two rules: whatever stands under a key whose name
says that it is secret is replaced whole, and in all other text the parts that are secrets by their form are.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from services.mesh.json_limits import PLAIN_DEPTH
from services.mesh.secret_names import Naming, is_secret_name, naming
from services.mesh.secret_pairs import MASK, NAMING_KEYS, PLAIN_NUMBER, VALUE_KEYS, mask_pairs

__all__ = [
    "MASK", "MAX_DEPTH", "TOO_DEEP", "is_clean_text", "is_secret_name", "names_secret", "redact",
    "redact_setting", "redact_text",
]  # fmt: skip

# What lies deeper is not looked at, so it is not kept either. No deeper than what JSON takes in, so that what
# was recorded can be sent again.
MAX_DEPTH: Final = PLAIN_DEPTH
TOO_DEEP: Final = "[nested too deeply]"

# Secrets by their form. Each keeps what says what it was.
_TEXT_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # user:password@host without a scheme; not a time, an address of mail, a version of an image or package.
    (
        re.compile(
            r"(?<![\w.%+/:@-])(?!(?:mailto|sips?|xmpp|acct|npm|workspace|to|from|cc|e?mail):)"
            r"([\w.%+-]*[^\W\d][\w.%+-]{0,64}):([^\s/\"'`<>,;(){}\[\]]{1,256})@(?!sha\d|\d+(?:\.\d+){2}(?![.\d]))(?=[\w\[])"
        ),
        rf"\1:{MASK}@",
    ),
    # A JSON Web Token: three parts, the first of which is an object in base64.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),
    # Keys of well-known makers: OpenAI, Stripe, GitHub, GitLab, Hugging Face, Slack, AWS, Google.
    (
        re.compile(
            r"\b(?:[sr]k-[\w-]{16,}|[sr]k_(?:live|test)_\w{8,}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
            r"|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}"
            r"|xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})"
        ),
        MASK,
    ),
    # A social security number of the US.
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), MASK),
)
# After the names are looked at, of which they would take a part.
_LAST: Final = re.compile(r"(?i)\b(bearer|basic)\s+(?!--)[a-z0-9._~+/=-]{8,}")
# scheme://user:password@host; the last @ before a blank ends the password, whatever is in it.
_ADDRESS: Final = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{0,31}://[^\s:/@]{0,256}:")
_ADDRESS_REST: Final = re.compile(r"[^\s\"'<>]*+")
# In a text that is an address and nothing else: from the first colon that is not the scheme's to the last @,
# so that odd passwords are covered whole.
_USER_INFO: Final = re.compile(r":(?!//)\S*@")
# What names something in a list, beside it.
_NAME: Final = re.compile(r"[\w.-]{1,128}")
# Without one of these characters or words no rule can match; most text is short and has none.
_SUSPICIOUS: Final = re.compile(
    r"(?i)[=:@＝：]|\d-\d|bearer|basic|eyJ|[sr]k[-_]|gh[pousr]_|github_pat|xox|AKIA|AIza|hf_|glpat|-----BEGIN"
    r"|(?<![\w.])--?\w|[\"'`]\s{0,8},"
)
# A secret without one of these characters is at least as long as this: a key of Stripe (`sk_live_…`), before
# a JSON Web Token (17) and a key of AWS (20).
_BREAK: Final = re.compile(r"[=:@＝：,\s-]")
_LEAST_BARE: Final = 16


def redact(value: object, depth: int = MAX_DEPTH) -> object:
    """`value` without its secrets: dicts, lists and text anew, everything else as it is.

    What is nested deeper than `depth` is left out. Tuples and sets come back as lists, instances of
    dataclasses as dicts, bytes as their number, since nobody can look into them.
    """
    return _redact(value, depth)


def redact_text(text: str) -> str:
    """Text without the parts that are secrets by their form."""
    if _SUSPICIOUS.search(text) is None:
        return text
    text = _without_passwords(text)
    for pattern, replacement in _TEXT_RULES:
        text = pattern.sub(replacement, text)
    return _LAST.sub(rf"\1 {MASK}", mask_pairs(text))


def _without_passwords(text: str) -> str:
    """The text without the passwords of addresses."""
    if "@" not in text or "://" not in text:
        return text
    parts: list[str] = []
    done = place = 0
    while (match := _ADDRESS.search(text, place)) is not None:
        rest = _ADDRESS_REST.match(text, match.end())
        place = match.end() if rest is None else rest.end()
        at = text.rfind("@", match.end() + 1, place)
        if at > 0:
            parts += (text[done : match.end()], MASK)
            done = at
    return "".join((*parts, text[done:]))


def is_clean_text(text: str) -> bool:
    """Whether `redact_text` leaves the text as it is, told at a small part of its cost.

    True is certain, False says nothing.
    """
    if len(text) < _LEAST_BARE and _BREAK.search(text) is None:
        return True
    return _SUSPICIOUS.search(text) is None


def redact_setting(name: str, value: str) -> str:
    """The value of a variable or a setting, to be shown: masked whole under a secret name.

    Of an address, which a name in _url has, all but the password is worth seeing.
    """
    if is_secret_name(name) and not name.lower().endswith("_url"):
        return MASK if value else value
    return redact_text(_USER_INFO.sub(f":{MASK}@", value))


def _redact(value: object, depth: int, *, count: bool = False) -> object:
    """Under the name of a count (`count`), text is masked unless it is a number."""
    if isinstance(value, str):
        return MASK if count and value and PLAIN_NUMBER.fullmatch(value) is None else redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping | Sequence | AbstractSet) and depth == 0:
        return TOO_DEEP
    if isinstance(value, Mapping):
        return _mapping(value, depth - 1, count)
    if isinstance(value, Sequence | AbstractSet):
        return _items(value, depth - 1, count)
    return value


def _mapping(value: Mapping[object, object], depth: int, count: bool) -> dict[object, object]:
    shown: dict[object, object] = {}
    named = False
    for key, item in value.items():
        said = naming(key if isinstance(key, str) else str(key))
        if said is Naming.SECRET:
            shown[key] = _masked(item)
        else:
            shown[key] = _redact(item, depth, count=count or said is Naming.COUNT)
        named = named or (key in NAMING_KEYS and names_secret(item))
    if named:  # {"name": "password", "value": "x"}
        for key in VALUE_KEYS.intersection(shown):
            shown[key] = _masked(shown[key])
    return shown


def _items(values: Iterable[object], depth: int, count: bool) -> list[object]:
    """A list; of ["password", "x"] and ["--password", "x"] what follows the name is masked."""
    items = list(values)
    shown: list[object] = []
    hidden = False
    for place, item in enumerate(items):
        shown.append(_masked(item) if hidden else _redact(item, depth, count=count))
        hidden = (place == 0 and len(items) == 2) or (isinstance(item, str) and item.startswith("-"))
        hidden = hidden and names_secret(item)
    return shown


def names_secret(value: object) -> bool:
    """Whether a value is the name of a secret, which stands beside it."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and is_secret_name(value)


def _masked(value: object) -> object:
    # Nothing to hide where there is nothing; whether it was there is worth knowing.
    return value if value is None or value == "" else MASK
