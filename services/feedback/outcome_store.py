"""SQL that writes outcomes: each id once, numbers dense in the order of commits, by the day of arrival."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import asyncpg

from services.feedback.outcome_rows import (
    ID_COLUMNS,
    OUTCOME_COLUMNS,
    OutcomeRow,
    first_places,
    pack_ids,
    pack_outcomes,
)
from services.feedback.store import Fate

# The clock is the database's, one for all replicas, unless a time is given.
_BEGIN: Final = """
WITH clock AS (SELECT coalesce($1::timestamptz, clock_timestamp()) AS now)
SELECT last, now,
  to_regclass('outcomes_' || to_char(now AT TIME ZONE 'UTC', 'YYYYMMDD')) IS NOT NULL AS ready
FROM heads, clock WHERE kind = 'outcome' FOR UPDATE OF heads
"""
_KNOWN: Final = "SELECT id, digest FROM outcome_ids WHERE id = ANY($1::text[])"
_MAKE: Final = "SELECT make_outcomes_of($1)"
_END: Final = "UPDATE heads SET last = $1 WHERE kind = 'outcome'"


async def store_outcomes(
    connection: asyncpg.Connection, rows: Sequence[OutcomeRow], now: datetime | None = None
) -> list[Fate]:
    """Stores what is new; the fate of each row, in order. In the caller's transaction.

    The head row is locked until the transaction ends, so writers follow each other. `now` stands in for the
    database's clock. Nothing fails because the partition of the day is not there: it is made here.
    """
    last, arrived, ready = await connection.fetchrow(_BEGIN, now)
    firsts = first_places(rows)
    known = dict(await connection.fetch(_KNOWN, list(firsts)))
    new = [rows[place] for one, place in firsts.items() if one not in known]
    if new:
        if not ready:
            await connection.execute(_MAKE, arrived.astimezone(UTC).date())
        await connection.copy_to_table(
            "outcome_ids", source=io.BytesIO(pack_ids(new, last + 1)), columns=ID_COLUMNS, format="binary"
        )
        await connection.copy_to_table(
            "outcomes",
            source=io.BytesIO(pack_outcomes(new, last + 1, arrived)),
            columns=OUTCOME_COLUMNS,
            format="binary",
        )
        await connection.execute(_END, last + len(new))
    if len(new) == len(rows):
        return [Fate.STORED] * len(rows)
    fates = []
    for place, one in enumerate(rows):
        first = firsts[one.id]
        digest = known.get(one.id)
        if digest is None and first == place:
            fates.append(Fate.STORED)
        else:
            before = digest if digest is not None else rows[first].digest
            fates.append(Fate.DUPLICATE if before == one.digest else Fate.CONFLICT)
    return fates
