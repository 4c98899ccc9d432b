"""Tells by a name whether what stands under it is secret: of a key, a variable, an option or in text."""

import re
import unicodedata
from enum import Enum
from functools import lru_cache
from typing import Final

# Compared with a name in lower case without separators and camel humps; each anywhere in it.
_SECRET_PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "sshkey",
    "sharedkey",
    "masterkey",
    "accountkey",
    "subscriptionkey",
    "securitycode",
    "bankaccount",
    "authorization",
    "credential",
    "cookie",
    "creditcard",
    "cardnumber",
    "databaseurl",
    "connectionstring",
    "socialsecurity",
    "sessionid",
    "bearer",
)
# What looks like one of these and is none, once the words are joined. Looked for in each word alone: there is
# no bypass in `standby_password`.
_INNOCENT: Final = re.compile(
    r"secretar(?:y|ies|iat)|(?:dis|post|score|wild|flash|time)card|(?:com|by)pass(?![wpc])|cookiecutter"
)
# Each only as a word of its own (`user_ssn`, not `session`; `pin`, not `mapping`).
_SECRET_WORDS: Final = frozenset(
    "ssn pwd pw pass token tokens card cvv cvc pan iban pin dsn auth jwt otp totp signature sig hmac csrf xsrf passport".split()  # noqa: E501, SIM905
)
_SECRET_ENDS: Final = ("token", "sessid")
_TOKENS: Final = frozenset({"token", "tokens"})
# Words that make a name with `token` a number, not a secret, as `tokens` alone does: token_count.
_COUNTING_WORDS: Final = frozenset(
    "used count max min total prompt completion input output limit budget per usage cost price".split()  # noqa: SIM905
)
# Last words that make a name with any of the secret words an amount: pass_rate, auth_duration_ms, pin_lat.
_MEASURES: Final = frozenset(
    "count rate ratio share percent ms seconds minutes duration latency lat lon latitude longitude".split()  # noqa: SIM905
)
_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Longer ones are not remembered, so that nobody can fill the memory with them.
_REMEMBERED: Final = 64


class Naming(Enum):
    """What a name says of what stands under it."""

    NOTHING = 0
    # An amount, above all a number of tokens; a text there is none.
    COUNT = 1
    SECRET = 2


def naming(name: str) -> Naming:
    """What the name says, whatever its case, its separators and the width of its letters."""
    return _remembered(name) if len(name) <= _REMEMBERED else _naming(name)


def is_secret_name(name: str) -> bool:
    """Whether whatever stands under this name is secret: ssn, api_key, accessToken, but not tokens_used."""
    return naming(name) is Naming.SECRET


def _naming(name: str) -> Naming:
    if not name.isascii():  # full-width letters, a long s, the sign for kelvin
        name = unicodedata.normalize("NFKC", name.replace("\u212a", "k"))
        name = "".join(char for char in name if unicodedata.category(char) != "Cf")  # nobody sees these
    words = [word.lower() for word in _WORDS.findall(name)]
    joined = "".join(_INNOCENT.sub(" ", word) for word in words)
    if any(part in joined for part in _SECRET_PARTS):
        return Naming.SECRET
    found = {word for word in words if word in _SECRET_WORDS or word.endswith(_SECRET_ENDS)}
    if joined in _SECRET_WORDS:
        found.add(joined)
    if not found:
        return Naming.NOTHING
    if found <= _TOKENS and ("tokens" in found or not _COUNTING_WORDS.isdisjoint(words)):
        return Naming.COUNT
    return Naming.COUNT if words[-1] in _MEASURES else Naming.SECRET


_remembered: Final = lru_cache(maxsize=4096)(_naming)
