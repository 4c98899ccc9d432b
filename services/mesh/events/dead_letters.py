"""What becomes of a record that cannot be handled: the same bytes on `dead-letters`, with its origin."""

import uuid
from typing import Final

from services.mesh.events.bus import Message, Record
from services.mesh.events.topics import DEAD_LETTERS

REASON: Final = "dead-reason"
TOPIC: Final = "dead-topic"
PARTITION: Final = "dead-partition"
POSITION: Final = "dead-position"
EVENT_ID: Final = "dead-event-id"
GROUP: Final = "dead-group"

_REASON_CHARS: Final = 1000
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_DNS, "dead-letters.waymesh")


def dead_letter(record: Record, reason: str, group: str = "", *, value: bytes | None = None) -> Message:
    """The message for `dead-letters`, with another value if one is given.

    Its id follows from the origin: the same record dies once per group.
    """
    origin = f"{group}|{record.topic}|{record.partition}|{record.position}"
    return Message(
        topic=DEAD_LETTERS,
        key=_storable(record.key),
        value=record.value if value is None else value,
        event_id=str(uuid.uuid5(_NAMESPACE, origin)),
        type=_storable(record.type),
        content_type=_storable(record.content_type),
        headers={
            **record.headers,
            REASON: _storable(reason)[:_REASON_CHARS],
            TOPIC: record.topic,
            PARTITION: str(record.partition),
            POSITION: str(record.position),
            EVENT_ID: record.event_id,
            GROUP: group,
        },
    )


def _storable(text: str) -> str:
    """PostgreSQL has no place for U+0000 in text."""
    return text.replace("\x00", "�")
