"""Dead letters as people look at them: what died, where it came from, why; and the event it was."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from services.mesh.events import dead_letters as names
from services.mesh.events.bus import Message, Record

_MIN_PREFIX: Final = 4


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of `dead-letters`. What its origin did not say is empty; numbers are -1 then."""

    id: str
    time: datetime
    """When it died, UTC."""
    topic: str
    partition: int
    position: int
    group: str
    event_id: str
    source: str
    happened: datetime | None
    """When the bus had taken in what died, UTC."""
    reason: str
    key: str
    type: str
    content_type: str
    headers: Mapping[str, str]
    """Those it had, without what tells of its death."""
    value: bytes
    omitted_bytes: int
    """Length of a value that was too large to be kept; else 0."""

    @classmethod
    def of(cls, record: Record) -> "Letter":
        """What a record of `dead-letters` tells."""
        told = record.headers
        return cls(
            id=record.event_id,
            time=record.time,
            topic=told.get(names.TOPIC, ""),
            partition=_number(told, names.PARTITION, -1),
            position=_number(told, names.POSITION, -1),
            group=told.get(names.GROUP, ""),
            event_id=told.get(names.EVENT_ID, ""),
            source=told.get(names.SOURCE, ""),
            happened=_time(told.get(names.TIME, "")),
            reason=told.get(names.REASON, ""),
            key=record.key,
            type="" if record.type == names.UNKNOWN_TYPE else record.type,
            content_type=record.content_type,
            headers={name: text for name, text in told.items() if not name.startswith(names.PREFIX)},
            value=record.value,
            omitted_bytes=_number(told, names.OMITTED, 0),
        )

    @property
    def event(self) -> Message:
        """What died, as it was published, for its own topic."""
        return Message(
            topic=self.topic,
            key=self.key,
            value=self.value,
            event_id=self.event_id,
            type=self.type,
            content_type=self.content_type,
            headers=self.headers,
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; what is None or empty does not matter."""

    ids: tuple[str, ...] = ()
    """Whole, or their first four characters or more."""
    topic: str | None = None
    group: str | None = None
    since: datetime | None = None
    reason: str | None = None
    """Text that is in the reason, in whatever case."""

    def __call__(self, letter: Letter) -> bool:
        """Whether a letter is one of them."""
        return (
            (not self.ids or any(is_id(letter, one) for one in self.ids))
            and self.topic in (None, letter.topic)
            and self.group in (None, letter.group)
            and (self.since is None or letter.time >= self.since)
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
        )


def is_id(letter: Letter, text: str) -> bool:
    """Whether a text names the letter."""
    return letter.id == text or (len(text) >= _MIN_PREFIX and letter.id.startswith(text))


def newest_first(letters: Iterable[Letter], most: int | None) -> list[Letter]:
    """Each letter once, although a producer may have sent it twice."""
    unique = {letter.id: letter for letter in letters}
    ordered = sorted(unique.values(), key=lambda one: (one.time, one.id), reverse=True)
    return ordered if most is None else ordered[:most]


def _number(told: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(told[name])
    except (KeyError, ValueError):
        return default


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None
