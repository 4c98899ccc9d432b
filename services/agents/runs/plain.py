"""Tells at a glance that there is nothing secret in a Struct, for certain: most have nothing.

To take a payload apart, look at it and put it together again costs ten times as much. What is not plain may
have no secret all the same: whoever asks looks closely then. The rules are those of services.mesh.redact.
"""

import re
from functools import lru_cache
from typing import Final

from google.protobuf.struct_pb2 import Struct, Value

from services.mesh.redact import COUNT_LIMIT, is_clean_text, may_name_secret, redact_text
from services.mesh.secret_names import Naming, naming
from services.mesh.secret_pairs import NAMING_KEYS

_DEPTH: Final = 16
# Times and identities of ours come in every payload, and colons and dashes make them suspicious.
_HARMLESS: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_LONGEST_HARMLESS: Final = 40


def is_plain(struct: Struct, depth: int = _DEPTH) -> bool:
    """Whether redaction changes nothing, for certain."""
    if depth == 0:
        return False
    fields = struct.fields
    for name in fields:
        value = fields[name]
        if not (_key(name) or _count(name, value)) or not _value(value, depth):
            return False
    return True


def _value(value: Value, depth: int) -> bool:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return _text(value.string_value)
    if kind == "struct_value":
        return is_plain(value.struct_value, depth - 1)
    if kind == "list_value":
        values = value.list_value.values
        # What stands behind the name of a secret in a list is one.
        return (
            depth > 1
            and all(_value(one, depth - 1) for one in values)
            and not any(may_name_secret(one.string_value) for one in values if one.HasField("string_value"))
        )
    return kind is not None  # a value without a kind is put right by looking closely


def _text(text: str) -> bool:
    if len(text) <= _LONGEST_HARMLESS and _HARMLESS.fullmatch(text) is not None:
        return True
    return is_clean_text(text) or redact_text(text) == text


# The same few names come again and again.
@lru_cache(maxsize=4096)
def _key(name: str) -> bool:
    """Whether nothing that stands under this name is secret for its sake."""
    return (
        len(name) <= 128
        and is_clean_text(name)
        and naming(name) is Naming.NOTHING
        and name.lower() not in NAMING_KEYS
    )


def _count(name: str, value: Value) -> bool:
    """Whether a value under this name is an amount, or what names no secret."""
    if not is_clean_text(name):
        return False
    if name.lower() in NAMING_KEYS:
        kind = value.WhichOneof("kind")
        return kind in ("number_value", "bool_value") or (
            kind == "string_value" and not may_name_secret(value.string_value)
        )
    return (
        naming(name) is Naming.COUNT
        and value.WhichOneof("kind") == "number_value"
        and abs(value.number_value) < COUNT_LIMIT
    )
