"""Bounds on how much a body may hold, before a message is made of it.

Whatever is made of a body is made in one go, and nobody else is answered meanwhile. A megabyte of orders
takes some ten milliseconds; a megabyte of empty lists, where JSON of any form may stand, takes seconds. The
service behind would refuse it, or choke on it.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from services.mesh import json_codec
from services.mesh.errors import FieldViolation
from services.mesh.json_limits import PLAIN_VALUES

# Values of a whole body. Two megabytes of what the contracts describe have half as many.
MAX_VALUES: Final = 200_000
# Values where JSON of any form may stand, in all of a body.
MAX_FREE_IN_ALL: Final = 50_000

_MANY: Final = 10_000
# A text, whole or to the end of the body.
_TEXT: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def parse(data: bytes) -> tuple[Any, bool]:
    """What a body says, and whether it is so much that `check` has to look. Raises InvalidArgument."""
    if len(data) <= _MANY or _values(data) <= _MANY:
        return json_codec.parse(data), False
    if _values(data) > MAX_VALUES and _values(_TEXT.sub(b"", data)) > MAX_VALUES:
        raise json_codec.invalid_fields([FieldViolation("", f"must hold at most {MAX_VALUES:,} values")])
    return json_codec.parse(data), True


def check(message: Any, value: object, path: str = "") -> None:
    """Raises InvalidArgument if a list in `value`, of which a message of this descriptor is to be made, is
    longer than its rule allows, or if too much stands where JSON of any form may.
    """
    found: list[FieldViolation] = []
    free = 0
    for place, kind, held in _held(message, value, path):
        if kind is None:
            count = _count(held)
            free += count
            if count > PLAIN_VALUES:
                found.append(FieldViolation(place, f"must hold at most {PLAIN_VALUES:,} values"))
            elif free > MAX_FREE_IN_ALL:
                text = f"holds too much: all places of this kind together at most {MAX_FREE_IN_ALL:,} values"
                found.append(FieldViolation(place, text))
        else:
            limit = _limit(kind)
            if len(held) > limit:
                found.append(FieldViolation(place, f"must contain no more than {limit} item(s)"))
        if len(found) == json_codec.MAX_VIOLATIONS:
            break
    if found:
        raise json_codec.invalid_fields(found)


def _values(data: bytes) -> int:
    """About how many values there are; what stands in texts counts, too."""
    first = data.count(b"[") + data.count(b"{") - data.count(b"[]") - data.count(b"{}")
    return data.count(b",") + first


def _held(message: Descriptor, value: object, path: str) -> Iterator[tuple[str, FieldDescriptor | None, Any]]:
    """Lists with their fields, and what may have any form, without one; where each stands.

    What is within a list that is too long is left out. So is what has another form than the contract's: that
    is refused when the message is made, and at once.
    """
    if type(value) is not dict:
        return
    for name, held in value.items():
        field = message.fields_by_name.get(name)
        if field is None:
            continue
        here = f"{path}.{name}" if path else name
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
            each = [(f'{here}["{key}"]', one) for key, one in held.items()] if type(held) is dict else []
        elif field.is_repeated:
            if type(held) is not list:
                continue
            yield here, field, held
            each = [(f"{here}[{n}]", one) for n, one in enumerate(held[: _limit(field)])]
        else:
            each = [(here, held)]
        if inner is None:
            continue
        for place, one in each:
            if inner.full_name.startswith("google."):
                yield place, None, one
            else:
                yield from _held(inner, one, place)


def _limit(field: FieldDescriptor) -> int:
    rules = field.GetOptions().Extensions[validate_pb2.field].repeated
    return int(rules.max_items) if rules.HasField("max_items") else _MANY


def _count(value: object) -> int:
    """Values in a value, as far as it takes to see that they are too many."""
    found, open_ = 0, [value]
    while open_ and found <= PLAIN_VALUES:
        item = open_.pop()
        if type(item) is dict:
            found += len(item)
            open_ += item.values()
        elif type(item) is list:
            found += len(item)
            open_ += item
    return found
