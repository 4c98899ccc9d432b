"""The inbox of a service: each event id is admitted once, in the transaction of its effects."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg

_ADMIT: Final = """
INSERT INTO inbox (scope, event_id, digest)
SELECT $1, e.event_id, e.digest FROM unnest($2::text[], $3::bytea[]) AS e(event_id, digest)
ON CONFLICT DO NOTHING RETURNING event_id
"""
_KNOWN: Final = "SELECT event_id, digest FROM inbox WHERE scope = $1 AND event_id = ANY($2::text[])"


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a batch of ids; the three sets are disjoint and hold all of them."""

    new: frozenset[str]
    duplicates: frozenset[str]
    conflicts: frozenset[str]
    """Ids that came before with another digest."""


async def admit(connection: asyncpg.Connection, scope: str, events: Mapping[str, bytes | None]) -> Admission:
    """Takes in ids with the digests of their contents (None where the content cannot differ).

    Call it in the transaction that has the effects. If another transaction is admitting one of the ids, it
    waits for the end of that one. The connection's search_path is the service's schema.
    """
    ids = sorted(events)  # the same order everywhere, so that two batches cannot wait for each other
    rows = await connection.fetch(_ADMIT, scope, ids, [events[one] for one in ids])
    new = frozenset(row["event_id"] for row in rows)
    if len(new) == len(ids):
        return Admission(new, frozenset(), frozenset())
    old = [one for one in ids if one not in new]
    known = {row["event_id"]: row["digest"] for row in await connection.fetch(_KNOWN, scope, old)}
    conflicts = frozenset(one for one in old if known.get(one) != events[one])
    return Admission(new, frozenset(old) - conflicts, conflicts)


async def prune(connection: asyncpg.Connection, scope: str, older_than: timedelta) -> None:
    """Forgets ids that came longer ago; from then on they would be admitted again."""
    await connection.execute(
        "DELETE FROM inbox WHERE scope = $1 AND seen_at < now() - $2::interval", scope, older_than
    )
