"""What becomes of a record that cannot be handled: the same bytes on `dead-letters`, with its origin."""

import contextlib
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from typing import Final

from services.mesh.events.bus import Message, Record
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.principal import TENANT_KEY

PREFIX: Final = "dead-"
REASON: Final = "dead-reason"
TOPIC: Final = "dead-topic"
PARTITION: Final = "dead-partition"
POSITION: Final = "dead-position"
EVENT_ID: Final = "dead-event-id"
GROUP: Final = "dead-group"
SOURCE: Final = "dead-source"
TIME: Final = "dead-time"
OMITTED: Final = "dead-omitted-bytes"
"""Length of a value that the letter does not hold."""

ONLY_FOR: Final = "dead-only-for"
"""Header of an event that is sent back: the group that gave it up. The others have handled it."""

UNKNOWN_TYPE: Final = "unknown"
"""CloudEvents type of a letter whose record named none: there has to be one."""

_REASON_CHARS: Final = 1000
# Whose it was stays with it: without that it would be the default tenant's.
_TOLD: Final = frozenset(
    {REASON, TOPIC, PARTITION, POSITION, EVENT_ID, GROUP, SOURCE, TIME, OMITTED, TENANT_KEY}
)
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "dead-letters.waymesh")

_group: ContextVar[str] = ContextVar("waymesh_handling_group", default="")


@contextlib.contextmanager
def handling(group: str) -> Iterator[None]:
    """What dies within could not be handled by this group."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def dead_letter(record: Record, reason: str, group: str = "", *, value: bytes | None = None) -> Message:
    """The message for `dead-letters`, with another value if one is given.

    Its id follows from the origin: the same record dies once per group. Without a group it is that of the
    handler that is at work.
    """
    if record.topic == DEAD_LETTERS:
        return _without_value(record, reason)
    group = group or _group.get()
    origin = f"{group}|{record.topic}|{record.partition}|{record.position}"
    headers = {
        **{name: text for name, text in record.headers.items() if not name.startswith(PREFIX)},
        REASON: _storable(reason)[:_REASON_CHARS],
        TOPIC: record.topic,
        PARTITION: str(record.partition),
        POSITION: str(record.position),
        EVENT_ID: record.event_id,
        GROUP: group,
        SOURCE: record.source,
        TIME: record.time.isoformat(),
    }
    if value is not None:
        headers[OMITTED] = str(len(record.value))
    return Message(
        topic=DEAD_LETTERS,
        key=_storable(record.key),
        value=record.value if value is None else value,
        event_id=str(uuid.uuid5(_NAMESPACE, origin)),
        type=_storable(record.type) or UNKNOWN_TYPE,
        content_type=_storable(record.content_type),
        headers=headers,
    )


def meant_for(group: str, records: list[Record]) -> list[Record]:
    """Without what was sent back for another group; what was for this one is as it came the first time."""
    if not any(ONLY_FOR in record.headers for record in records):
        return records
    meant = []
    for record in records:
        if record.headers.get(ONLY_FOR, group) == group:
            headers = {name: text for name, text in record.headers.items() if name != ONLY_FOR}
            meant.append(replace(record, headers=headers))
    return meant


def _without_value(letter: Record, reason: str) -> Message:
    """A letter that cannot be sent as it is: the same one, about the same origin, without the value.

    Of the headers that its event brought along it has the tenant alone, and all else cut short: it has to be
    small enough for sure.
    """
    words = f"{letter.headers.get(REASON, '')}; the letter is {reason}"
    told = {name: text[:_REASON_CHARS] for name, text in letter.headers.items() if name in _TOLD}
    omitted = str(len(letter.value)) if letter.value else told.get(OMITTED, "0")
    return Message(
        topic=DEAD_LETTERS,
        key=letter.key[:_REASON_CHARS],
        value=b"",
        event_id=letter.event_id,
        type=letter.type[:_REASON_CHARS],
        content_type=letter.content_type[:_REASON_CHARS],
        headers={**told, REASON: words[:_REASON_CHARS], OMITTED: omitted},
    )


def _storable(text: str) -> str:
    """PostgreSQL has no place for U+0000 in text."""
    return text.replace("\x00", "�")
