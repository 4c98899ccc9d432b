"""SQL that writes outcomes: each id once, numbers dense in the order of commits, by the day of arrival."""

from collections.abc import Sequence
from datetime import datetime
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

_BEGIN: Final = "SELECT first, arrived, known, digests FROM begin_outcomes($1, $2)"


async def store_outcomes(
    connection: asyncpg.Connection, rows: Sequence[OutcomeRow], now: datetime | None = None
) -> list[Fate]:
    """Stores what is new; the fate of each row, in order. In the caller's transaction.

    The head row is locked until the transaction ends, so writers follow each other. `now` stands in for the
    database's clock. Nothing fails because the partition of the day is not there: it is made then.
    """
    firsts = first_places(rows)
    first, arrived, ids, digests = await connection.fetchrow(_BEGIN, list(firsts), now)
    known = dict(zip(ids, digests, strict=True))
    new = [rows[place] for one, place in firsts.items() if one not in known]
    if new:
        await _copy(connection, "outcome_ids", ID_COLUMNS, pack_ids(new, first))
        await _copy(connection, "outcomes", OUTCOME_COLUMNS, pack_outcomes(new, first, arrived))
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


async def _copy(connection: asyncpg.Connection, table: str, columns: Sequence[str], packed: bytes) -> None:
    # Bytes by themselves would be taken for a path, and a file be read in a thread.
    await connection.copy_to_table(table, source=memoryview(packed), columns=columns, format="binary")
