"""Takes what is secret out of values before they are stored, logged or published.

Pure: the value given stays as it is, a new one comes back. Two rules: whatever stands under a key whose name
says that it is secret is replaced whole, and in all other text the parts that are secrets by their form are.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

from services.mesh.json_limits import PLAIN_DEPTH

MASK: Final = "[redacted]"
# What lies deeper is not looked at, so it is not kept either. No deeper than what JSON takes in, so that what
# was recorded can be sent again.
MAX_DEPTH: Final = PLAIN_DEPTH
TOO_DEEP: Final = "[nested too deeply]"

# Compared with a key in lower case without separators and camel humps; each anywhere in it.
_SECRET_PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "authorization",
    "credential",
    "cookie",
    "creditcard",
    "cardnumber",
    "databaseurl",
    "connectionstring",
    "socialsecurity",
    "bearer",
)
# Each only as a word of its own (`user_ssn`, not `session`; `pin`, not `mapping`).
_SECRET_WORDS: Final = frozenset(
    {"ssn", "pwd", "token", "tokens", "card", "cvv", "cvc", "pan", "iban", "pin", "dsn", "auth", "jwt", "otp"}
)
# Words that make a key with `tokens` or `token` a number, not a secret: tokens_used, max_tokens, token_count.
_COUNTING_WORDS: Final = frozenset(
    "used count max min total prompt completion input output limit budget per".split()  # noqa: SIM905
)

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")

# Secrets by their form. Each keeps what says what it was.
_TEXT_RULES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # scheme://user:password@host; the last @ before a blank ends the password, whatever is in it.
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,31}://[^\s:/@]{0,256}):[^\s\"'<>]{1,1024}@"), rf"\1:{MASK}@"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"), rf"\1 {MASK}"),
    # A JSON Web Token: three parts, the first of which is an object in base64.
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), MASK),
    # Keys of well-known makers: OpenAI, Stripe, GitHub, Slack, AWS, Google.
    (
        re.compile(
            r"\b(?:[sr]k-[\w-]{16,}|[sr]k_(?:live|test)_\w{8,}|gh[pousr]_\w{20,}|github_pat_\w{20,}"
            r"|xox[abposr]-[\w-]{10,}|AKIA[0-9A-Z]{16}|AIza[\w-]{30,})"
        ),
        MASK,
    ),
    # A social security number of the US.
    (re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"), MASK),
    # name=value and name: value in running text, as in a query string, an environment or a log line.
    (
        re.compile(
            r"(?i)\b((?:[\w-]{0,64}[_-])?(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?key|token|ssn"
            r"|authorization)[\"']?\s{0,4}[=:]\s{0,4}[\"']?)(?!\[redacted\]|bearer\b|basic\b)[^\s\"'&,;}\]]{1,1024}"
        ),
        rf"\1{MASK}",
    ),
)
# In a text that is an address and nothing else: from the first colon that is not the scheme's to the last @,
# so that odd passwords are covered whole.
_USER_INFO: Final = re.compile(r":(?!//)\S*@")
# Without one of these characters or words no rule can match; most text is short and has none.
_SUSPICIOUS: Final = re.compile(
    r"(?i)[=:@]|\d-\d|bearer|basic|eyJ|[sr]k[-_]|gh[pousr]_|github_pat|xox|AKIA|AIza|-----BEGIN"
)
# A secret without one of these characters is at least as long as this: a key of Stripe (`sk_live_…`), before
# a JSON Web Token (17) and a key of AWS (20).
_BREAK: Final = re.compile(r"[=:@\s-]")
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
    for pattern, replacement in _TEXT_RULES:
        text = pattern.sub(replacement, text)
    return text


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


def is_secret_name(name: str) -> bool:
    """Whether what stands under this name is secret: ssn, api_key, accessToken, but not tokens_used."""
    words = [word.lower() for word in _WORDS.findall(name[:256])]
    joined = "".join(words)
    if any(part in joined for part in _SECRET_PARTS):
        return True
    found = _SECRET_WORDS.intersection(words)
    if found and found <= {"token", "tokens"}:
        return _COUNTING_WORDS.isdisjoint(words)
    return bool(found)


def _redact(value: object, depth: int) -> object:
    if isinstance(value, str):
        return redact_text(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping | Sequence | AbstractSet) and depth == 0:
        return TOO_DEEP
    if isinstance(value, Mapping):
        return {key: _entry(key, item, depth - 1) for key, item in value.items()}
    if isinstance(value, Sequence | AbstractSet):
        return [_redact(item, depth - 1) for item in value]
    return value


def _entry(key: object, value: object, depth: int) -> object:
    if is_secret_name(key if isinstance(key, str) else str(key)):
        # Nothing to hide where there is nothing; whether it was there is worth knowing.
        return value if value is None or value == "" else MASK
    return _redact(value, depth)
