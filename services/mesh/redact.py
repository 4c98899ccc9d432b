"""Takes what is secret out of values before they are stored, logged or published.

Pure: the value given stays as it is, a new one comes back. Two rules: whatever stands under a key whose name
says that it is secret is replaced whole, and in all other text the parts that are secrets by their form are.
"""

import dataclasses
import re
from collections import UserString
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import islice
from typing import Final
from urllib.parse import unquote, unquote_plus, urlsplit

from google.protobuf import json_format
from google.protobuf.message import Message

from services.mesh.json_limits import PLAIN_DEPTH
from services.mesh.secret_names import Naming, is_secret_name, naming
from services.mesh.secret_pairs import MASK, NAMING_KEYS, PLAIN_NUMBER, VALUE_KEYS, mask_pairs

__all__ = [
    "COUNT_LIMIT", "MASK", "MAX_DEPTH", "MAX_VALUES", "TOO_DEEP", "TOO_LARGE", "is_clean_text",
    "is_secret_name", "may_name_secret", "redact", "redact_forms", "redact_labels", "redact_setting",
    "redact_text", "secrets_in_address",
]  # fmt: skip

# What lies deeper is not looked at, so it is not kept either. No deeper than what JSON takes in, so that what
# was recorded can be sent again.
MAX_DEPTH: Final = PLAIN_DEPTH
TOO_DEEP: Final = "[nested too deeply]"
# What holds itself several times over has no end.
MAX_VALUES: Final = 50_000
TOO_LARGE: Final = "[left out: too large]"
# An amount is less; a greater number could be that of a card.
COUNT_LIMIT: Final = 10**12
# To take a message of protobuf apart takes time.
_MAX_MESSAGE_BYTES: Final = 32_768
_LONGEST_KEY: Final = 16
_LONGEST_PATH: Final = 32

# Secrets by their form. Each keeps what says what it was.
_TEXT_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # user:password@host without a scheme; not a time, an address of mail, a version of an image or package.
    (
        re.compile(
            r"(?<![\w.%+/:@-])(?!(?:mailto|sips?|tel|xmpp|acct|npm|workspace|to|from|cc|e?mail):|\d{4}-\d\d-\d\dT)"
            r"([\w.%+-]*[^\W\d][\w.%+-]{0,64}):([^\s/\"'`<>,;(){}\[\]]{1,256})@(?!sha\d|\d+(?:\.\d+){2}(?![.\d]))(?=[\w\[])"
        ),
        rf"\1:{MASK}@",
    ),
    # curl -u user:password; not the numbers of a user and a group.
    (
        re.compile(
            r"(?<![\w-])((?:-[uU]|--(?:proxy-)?user)[ =]{1,2}([\"'])[^\s:\"'/]{1,64}):[^\"'\n]{1,256}\2"
        ),
        rf"\1:{MASK}\2",
    ),
    (
        re.compile(
            r"(?<![\w-])((?:-[uU]|--(?:proxy-)?user)[ =]{1,2}(?!\d{1,10}:\d{1,10}(?!\S))[^\s:\"'/]{1,64}):"
            r"[^\s\"']{1,256}"
        ),
        rf"\1:{MASK}",
    ),
    # A social security number of the US.
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), MASK),
)
# Those that nothing else looks like, wherever they stand.
_FORMS: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # A JSON Web Token: three parts, the first of which is an object in base64.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),
    # Keys of makers: OpenAI, Stripe, GitHub, GitLab, Hugging Face, Slack, AWS, Google, and our own.
    (
        re.compile(
            r"\b(?:[sr]k-[\w-]{16,}|[sr]k_(?:live|test)_\w{8,}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
            r"|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{16,}"
            r"|xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|wm_[\w-]{24,})"
        ),
        MASK,
    ),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), MASK),
)
_FORM_HINT: Final = re.compile(r"eyJ|[sr]k[-_]|gh[pousr]_|github_pat|xox|AKIA|AIza|hf_|glpat|wm_|-----BEGIN")
# After the names are looked at, of which they would take a part. Not: basic understanding, bearer token.
_LAST: Final = re.compile(
    r"\b(?:((?i:bearer))\s+(?!--|(?i:auth[a-z]*+|tokens?|headers?|realm|schemes?|credentials?)[.,;:)]*+(?!\S))"
    r"|((?i:basic))\s+(?!--|[A-Za-z][a-z]++(?:-[a-z]++)*+[.,;:)]*+(?!\S)))[A-Za-z0-9._~+/=-]{8,}"
)
# scheme://user:password@host, with or without the scheme; the last @ before a blank ends the password,
# whatever is in it. Not host:port/path@x.
_ADDRESS: Final = re.compile(r"//([^\s:/@]{0,256}):")
_PORT: Final = re.compile(r"\d{2,5}[/?#]")
_ADDRESS_REST: Final = re.compile(r"[^\s\"'<>]*+")
# In a text that is an address and nothing else: from the first colon that is not the scheme's to the last @,
# so that odd passwords are covered whole.
_USER_INFO: Final = re.compile(r":(?!//).*@", re.DOTALL)
# A parameter there: what stands under a secret name is secret to its end, whatever is in it.
_PARAMETER: Final = re.compile(r"([?&])([^\s=&?]+)=([^\s&]+)")
# What names something in a list, beside it.
_NAME: Final = re.compile(r"[\w.-]{1,128}")
# Without one of these characters or words no rule can match; most text is short and has none.
_SUSPICIOUS: Final = re.compile(
    r"(?i)[=:@＝：]|\d-\d|bearer|basic|eyJ|[sr]k[-_]|gh[pousr]_|github_pat|xox|AKIA|AIza|hf_|glpat|wm_|-----BEGIN"
    r"|(?<![\w.])--?\w|[\"'`]\s{0,8},|%3[ad]|</"
    r"|(?<=[dety])[ \t]{1,8}[\"'`]"  # as those of SPOKEN end
)
# A secret without one of these characters is at least as long as this: a key of Stripe (`sk_live_…`), before
# a JSON Web Token (17) and a key of AWS (20).
_BREAK: Final = re.compile(r"[=:@＝：,\s<%-]")
_LEAST_BARE: Final = 16


def redact(value: object, depth: int = MAX_DEPTH) -> object:
    """`value` without its secrets: dicts, lists and text anew, everything else as it is.

    What is nested deeper than `depth` is left out, and so is what comes after MAX_VALUES. Tuples and sets
    come back as lists, instances of dataclasses, named tuples and messages of protobuf as dicts, bytes as
    their number, since nobody can look into them.
    """
    return _Look()(value, depth)


def redact_text(text: str) -> str:
    """Text without the parts that are secrets by their form."""
    if _SUSPICIOUS.search(text) is None:
        return text
    text = _without_passwords(text)
    for pattern, replacement in _TEXT_RULES:
        text = pattern.sub(replacement, text)
    text = redact_forms(text)
    return _LAST.sub(lambda match: f"{match[1] or match[2]} {MASK}", mask_pairs(text))


def redact_forms(text: str) -> str:
    """Text without what is a secret by its form alone, whatever is said around it.

    For words of our own that quote a caller's: by names, `page_token: is not one of ours` would suffer too.
    """
    if _FORM_HINT.search(text) is None:
        return text
    for pattern, replacement in _FORMS:
        text = pattern.sub(replacement, text)
    return text


def redact_labels(labels: MutableMapping[str, str]) -> None:
    """Hides, in place, values under secret names, secrets in other values, and names that are secrets."""
    for name in list(labels):
        text = labels[name]
        hidden = MASK if is_secret_name(name) else redact_text(text)
        shown = redact_forms(name)
        if shown != name:
            del labels[name]
        if shown != name or hidden != text:
            labels[shown] = hidden


def _without_passwords(text: str) -> str:
    """The text without the passwords of addresses."""
    if "@" not in text or "//" not in text:
        return text
    parts: list[str] = []
    done = place = 0
    while (match := _ADDRESS.search(text, place)) is not None:
        host = match[1]
        if ("." in host or host == "localhost") and _PORT.match(text, match.end()) is not None:
            place = match.end()
            continue
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
    return redact_text(_PARAMETER.sub(_without_secret, _USER_INFO.sub(f":{MASK}@", value)))


def secrets_in_address(address: str) -> set[str]:
    """What `redact_setting` hides in an address, as it stands there and as it is read."""
    found = {match[3] for match in _PARAMETER.finditer(address) if is_secret_name(unquote(match[2]))}
    found |= {match[0][1:-1] for match in _USER_INFO.finditer(address)}
    with suppress(ValueError):  # where nobody would find one either
        found.add(urlsplit(address).password or "")
    found |= {read(secret) for secret in found for read in (unquote, unquote_plus)}
    return found - {""}


def _without_secret(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}={MASK}" if is_secret_name(unquote(match[2])) else match[0]


class _Look:
    """One look through one value, at no more than MAX_VALUES of what it holds."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def __call__(self, value: object, depth: int, count: bool = False) -> object:
        """Under the name of an amount (`count`), what is no number is masked."""
        self._left -= 1
        if isinstance(value, str | UserString):
            text = str(value)
            return MASK if count and text and PLAIN_NUMBER.fullmatch(text) is None else redact_text(text)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return MASK if count and abs(value) >= COUNT_LIMIT else value
        if isinstance(value, bytes | bytearray | memoryview):
            return f"[{len(value)} bytes]"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        elif isinstance(value, Message) and not isinstance(value, Mapping | Sequence):
            value = _message(value)
            if isinstance(value, str):
                return self(value, depth, count)
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            value = value._asdict()
        if isinstance(value, Mapping | Sequence | AbstractSet) and depth == 0:
            return TOO_DEEP
        if isinstance(value, Mapping):
            return self._mapping(value, depth - 1, count)
        if isinstance(value, Sequence | AbstractSet):
            return self._items(value, depth - 1, count)
        return value

    def _mapping(self, value: Mapping[object, object], depth: int, count: bool) -> dict[object, object]:
        shown: dict[object, object] = {}
        beside = Naming.NOTHING
        for key, item in value.items():
            if self._left <= 0:
                shown[TOO_LARGE] = None
                break
            name = key if isinstance(key, str) else str(key)
            said = naming(name)
            if said is Naming.SECRET:
                shown[key] = _masked(item)
            else:
                shown[key] = self(item, depth, count or said is Naming.COUNT)
            if len(name) <= _LONGEST_KEY and name.lower() in NAMING_KEYS:
                beside = max(beside, _said_by(item), key=_weight)
        if beside is not Naming.NOTHING:  # {"name": "password", "value": "x"}
            for key in shown:
                if isinstance(key, str) and len(key) <= _LONGEST_KEY and key.lower() in VALUE_KEYS:
                    shown[key] = (
                        _masked(shown[key]) if beside is Naming.SECRET else self(shown[key], depth, True)
                    )
        return shown

    def _items(self, values: Iterable[object], depth: int, count: bool) -> list[object]:
        """A list; of ["password", "x"] and ["--password", "x"] what follows the name is masked."""
        items = list(islice(values, self._left + 1))
        shown: list[object] = []
        said = Naming.NOTHING
        for place, item in enumerate(items):
            if self._left <= 0:
                shown.append(TOO_LARGE)
                break
            if said is Naming.SECRET:
                shown.append(_masked(item))
            else:
                shown.append(self(item, depth, count or said is Naming.COUNT))
            named = (place == 0 and len(items) == 2) or (isinstance(item, str) and item.startswith("-"))
            said = _said_by(item) if named and isinstance(item, str) else Naming.NOTHING
        return shown


def may_name_secret(value: object) -> bool:
    """Whether a value may be the name of a secret or of an amount, which stands beside it."""
    return _said_by(value) is not Naming.NOTHING


def _said_by(value: object) -> Naming:
    """What a value says as the name of what stands beside it; of a path, what any part of it says."""
    if isinstance(value, str):
        return naming(value) if _NAME.fullmatch(value) is not None else Naming.NOTHING
    if isinstance(value, list | tuple):
        parts = (part for part in value[:_LONGEST_PATH] if isinstance(part, str))
        return max(map(_said_by, parts), key=_weight, default=Naming.NOTHING)
    return Naming.NOTHING


def _weight(said: Naming) -> int:
    return said.value


def _message(message: Message) -> object:
    """A message of protobuf by the names of its fields; one that is too large or not for JSON, as bytes."""
    size = message.ByteSize()
    if size <= _MAX_MESSAGE_BYTES:
        try:
            return json_format.MessageToDict(message, preserving_proto_field_name=True)
        except Exception:  # a time that JSON has not, an Any of a type that is not known here
            pass
    return f"[{size} bytes]"


def _masked(value: object) -> object:
    # Nothing to hide where there is nothing; whether it was there is worth knowing.
    return value if value is None or value == "" else MASK
