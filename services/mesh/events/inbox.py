"""The inbox of a group on Kafka: each event is let in once, in the transaction of its effects.

The embedded bus needs none: there an event lies in the log once, and the position moves with the effects.
"""

import hashlib
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from zlib import crc32

import asyncpg

from services.mesh.events.bus import Record
from services.mesh.events.handling import Admit, Admitted
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.principal import TENANT_KEY

CONFLICT: Final = "another event came with this id before, with other content"

_ADMIT: Final = """
INSERT INTO bus.inbox (group_name, digest, content)
SELECT $1, n.digest, n.content FROM unnest($2::bytea[], $3::bytea[]) AS n (digest, content)
ON CONFLICT DO NOTHING RETURNING digest
"""
_KNOWN: Final = "SELECT digest, content FROM bus.inbox WHERE group_name = $1 AND digest = ANY ($2::bytea[])"
_FORGET: Final = "DELETE FROM bus.inbox WHERE seen_at < now() - $1::interval"


def admit_once(group: str) -> Admit:
    """Lets each event into a group once, by topic, source and id; in the handler's transaction.

    What has the id of another event but says something else is no repetition: it is refused. If another
    transaction is letting one of them in, it waits for the end of that one.
    """

    async def admit(connection: asyncpg.Connection, records: list[Record]) -> Admitted:
        if not records:
            return Admitted([], [])
        digests = [event_digest(record) for record in records]
        contents = [_content_digest(record) for record in records]
        firsts = dict(zip(reversed(digests), reversed(contents), strict=True))
        # Sorted, so that two members who get the same events cannot wait for each other.
        ordered = sorted(firsts)
        rows = await connection.fetch(_ADMIT, group, ordered, [firsts[digest] for digest in ordered])
        new = {row["digest"] for row in rows}
        known: dict[bytes, bytes | None] = {}
        if len(new) < len(firsts):
            known = dict(await connection.fetch(_KNOWN, group, list(firsts.keys() - new)))
        admitted = Admitted([], [])
        for record, digest, content in zip(records, digests, contents, strict=True):
            if digest in new:
                new.discard(digest)
                known[digest] = content
                admitted.fresh.append(record)
            elif known.get(digest) not in (None, content) and record.topic != DEAD_LETTERS:
                # A letter keeps its id when it has to leave its value behind.
                admitted.refused.append((record, CONFLICT))
        return admitted

    return admit


async def forget(pool: asyncpg.Pool, older_than: timedelta) -> None:
    """Forgets events that came longer ago; from then on they would be let in again."""
    await pool.execute(_FORGET, older_than)


def event_digest(record: Record) -> bytes:
    """16 bytes that stand for an event, wherever it lies."""
    return digest_of(record.topic, record.source, record.event_id, record.headers)


def digest_of(topic: str, source: str, event_id: str, headers: Mapping[str, str]) -> bytes:
    """The same, of an event that is not at hand. Two tenants may have chosen the same id."""
    name = f"{topic}\0{source}\0{event_id}"
    tenant = headers.get(TENANT_KEY)
    if tenant is not None:
        name = f"{name}\0{tenant}"
    return hashlib.blake2b(name.encode(), digest_size=16).digest()


def _content_digest(record: Record) -> bytes:
    """Of what a repetition has in common with the event. A checksum will do: it tells of mistakes."""
    return crc32(record.key.encode(), crc32(record.value)).to_bytes(4, "big")
