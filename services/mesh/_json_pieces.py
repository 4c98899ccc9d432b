"""A message with long lists as JSON text in pieces, so that who writes it can let others work in between."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from services.mesh._json_plan import Field, Plan

# Lists beyond this are long: their items are written a few at a time, in well under a millisecond.
_LONG_OF_MESSAGES: Final = 32
_LONG_OF_VALUES: Final = 4096
# Their items are the message's own values, as a JSON encoder takes them.
_PLAIN: Final = frozenset({"text", "boolean", "integer", "double"})


@dataclass(frozen=True, slots=True)
class List:
    """A list that a message may have, and the number of items from which on it is long."""

    name: str
    limit: int


def lists_of(descriptor: Descriptor) -> tuple[List, ...]:
    """The lists of a message type. Those within its fields are not looked at."""
    found = []
    for field in descriptor.fields:
        message = field.message_type
        if field.is_repeated and not (message is not None and message.GetOptions().map_entry):
            found.append(List(field.name, _LONG_OF_VALUES if message is None else _LONG_OF_MESSAGES))
    return tuple(found)


def pieces(plan: Plan, message: Message, dumps: Callable[[object], str]) -> Iterator[str]:
    """The text that `dumps` makes of the whole, if they are put together."""
    lists = lists_of(plan.descriptor)
    long = {each.name: each.limit for each in lists if len(getattr(message, each.name)) > each.limit}
    separator = "{"
    for name, value in plan.write(_without(message, long)).items():
        yield f"{separator}{dumps(name)}:"
        separator = ","
        if name in long:
            yield from _items(plan, plan.fields[name], getattr(message, name), long[name], dumps)
        else:
            yield dumps(value)
    yield "}" if separator == "," else "{}"


def _without(message: Message, long: Container[str]) -> Message:
    """A copy with the long lists empty. Copying as a whole and clearing would take as long as reading."""
    short: Any = type(message)()
    for field, value in message.ListFields():
        if field.name in long:
            continue
        if not field.is_repeated and field.message_type is None:
            setattr(short, field.name, value)
        elif not field.is_repeated:
            getattr(short, field.name).CopyFrom(value)
        else:
            getattr(short, field.name).MergeFrom(value)
    return short  # type: ignore[no-any-return]


def _items(
    plan: Plan, field: Field, items: Sequence[Any], step: int, dumps: Callable[[object], str]
) -> Iterator[str]:
    separator = "["
    if field.element.message is not None:
        write = field.element.message.write
        for item in items:
            yield separator + dumps(write(item))
            separator = ","
    else:
        for start in range(0, len(items), step):
            part = items[start : start + step]
            if field.element.kind not in _PLAIN:
                part = plan.write(plan.cls(**{field.name: part}))[field.name]
            yield separator + dumps(part)[1:-1]
            separator = ","
    yield "]"
