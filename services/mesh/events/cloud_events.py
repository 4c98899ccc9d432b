"""CloudEvents in binary mode: the attributes of an event as headers beside the bare value.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md §3.2
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from services.mesh.events.bus import Message, Record
from services.mesh.principal import TENANT_KEY

SPEC_VERSION: Final = "1.0"
CONTENT_TYPE: Final = "content-type"
TIME: Final = "ce_time"
UNKNOWN_VERSION: Final = "unknown-specversion"
"""Header of a record that came by a CloudEvents version whose attributes may mean something else."""
_OWN: Final = "ce_"
_KNOWN_VERSIONS: Final = "1."


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the headers of a foreign or own event say; empty where they say nothing."""

    event_id: str
    type: str
    source: str
    content_type: str
    headers: Mapping[str, str]
    """The rest."""


def attributes(record: Record) -> dict[str, str]:
    """All headers of a record as CloudEvents names them, whichever adapter it was read from."""
    return {**to_headers(record, record.source), TIME: time_of(record.time)}


def time_of(moment: datetime) -> str:
    """A time as CloudEvents writes it. Of an event: when the bus took it in.

    It is optional, but the SDK for Python makes the time of reading up where it is missing.
    """
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def to_headers(message: Message, source: str) -> dict[str, str]:
    """Headers to send along with a message; its time is known only once the bus has taken it in."""
    headers = {
        "ce_specversion": SPEC_VERSION,
        "ce_id": message.event_id,
        "ce_type": message.type,
        "ce_source": source,
    }
    if message.content_type:
        headers[CONTENT_TYPE] = message.content_type
    headers.update(
        (name, value)
        for name, value in message.headers.items()
        if not name.startswith(_OWN) and name != CONTENT_TYPE
    )
    return headers


def from_headers(headers: Iterable[tuple[str, bytes | None]]) -> Attributes:
    """Reads headers; bytes that are not UTF-8 are replaced, names keep their last value."""
    known: dict[str, str] = {}
    rest: dict[str, str] = {}
    for name, raw in headers:
        value = (raw or b"").decode("utf-8", errors="replace")
        lower = name.lower()
        if lower == CONTENT_TYPE or lower.startswith(_OWN):
            known[lower] = value
        else:
            # Whoever writes the name of his tenant's header otherwise does not mean the default tenant.
            rest[lower if lower == TENANT_KEY else name] = value
    version = known.get("ce_specversion", SPEC_VERSION)
    if not version.startswith(_KNOWN_VERSIONS):
        rest[UNKNOWN_VERSION] = version
    return Attributes(
        event_id=known.get("ce_id", ""),
        type=known.get("ce_type", ""),
        source=known.get("ce_source", ""),
        content_type=known.get(CONTENT_TYPE, ""),
        headers=rest,
    )
