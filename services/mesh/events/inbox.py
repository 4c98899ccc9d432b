"""The inbox of a group on Kafka: each event is let in once, in the transaction of its effects.

The embedded bus needs none: there an event lies in the log once, and the position moves with the effects.
"""

import hashlib
from datetime import timedelta
from typing import Final

import asyncpg

from services.mesh.events.bus import Record
from services.mesh.events.handling import Admit

_ADMIT: Final = """
INSERT INTO bus.inbox (group_name, digest) SELECT $1, unnest($2::bytea[])
ON CONFLICT DO NOTHING RETURNING digest
"""
_FORGET: Final = "DELETE FROM bus.inbox WHERE seen_at < now() - $1::interval"


def admit_once(group: str) -> Admit:
    """Lets each event into a group once, by topic, source and id; in the handler's transaction.

    If another transaction is letting one of them in, it waits for the end of that one.
    """

    async def admit(connection: asyncpg.Connection, records: list[Record]) -> list[Record]:
        digests = [event_digest(record) for record in records]
        # Sorted, so that two members who get the same events cannot wait for each other.
        rows = await connection.fetch(_ADMIT, group, sorted(set(digests)))
        new = {row["digest"] for row in rows}
        fresh = []
        for record, digest in zip(records, digests, strict=True):
            if digest in new:
                new.discard(digest)
                fresh.append(record)
        return fresh

    return admit


async def forget(pool: asyncpg.Pool, older_than: timedelta) -> None:
    """Forgets events that came longer ago; from then on they would be let in again."""
    await pool.execute(_FORGET, older_than)


def event_digest(record: Record) -> bytes:
    """16 bytes that stand for an event, wherever it lies."""
    return digest_of(record.topic, record.source, record.event_id)


def digest_of(topic: str, source: str, event_id: str) -> bytes:
    """The same, of an event that is not at hand."""
    name = f"{topic}\0{source}\0{event_id}"
    return hashlib.blake2b(name.encode(), digest_size=16).digest()
