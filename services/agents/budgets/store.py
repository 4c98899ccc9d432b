"""SQL for budgets, nothing else. Amounts of money are billionths of a US dollar, days are UTC's.

What is settled and set aside at the same time, by any number of runs, is one statement and one commit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

import asyncpg

from services.agents.budgets.account import Booking, BudgetKind
from services.mesh.store import Store, is_transient, unavailable

_STEP: Final = (
    "SELECT settle_and_reserve($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid, $5::date, $6::uuid[], "
    "$7::text[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bigint[], $13::bigint[], "
    "$14::text[], $15::text[], $16::bigint[], $17::bigint[])"
)
_BOOK: Final = """
INSERT INTO spending AS s (day, tenant, kind, name, label, spent_nano_usd, spent_tokens)
SELECT coalesce($1::date, (now() AT TIME ZONE 'UTC')::date), tenant, kind, name, max(label),
  sum(nano_usd), sum(tokens)
FROM unnest($2::text[], $3::smallint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
  AS b (tenant, kind, name, label, nano_usd, tokens)
GROUP BY tenant, kind, name ORDER BY tenant, kind, name
ON CONFLICT (day, tenant, kind, name) DO UPDATE SET
  label = excluded.label,
  spent_nano_usd = s.spent_nano_usd + excluded.spent_nano_usd,
  spent_tokens = s.spent_tokens + excluded.spent_tokens
"""
_CHARGE: Final = """
WITH gone AS (
  DELETE FROM holds WHERE hold_id IN (
    SELECT hold_id FROM holds h
    WHERE NOT EXISTS (SELECT FROM processes p WHERE p.process_id = h.process_id)
    ORDER BY hold_id LIMIT $1 FOR UPDATE SKIP LOCKED
  ) RETURNING *
), parts AS (
  SELECT day, tenant, 1 AS kind, key AS name, nano_usd, tokens FROM gone WHERE key <> ''
  UNION ALL
  SELECT day, tenant, 2, agent_id, nano_usd, tokens FROM gone WHERE agent_id <> ''
), charged AS (
  INSERT INTO spending AS s (day, tenant, kind, name, label, spent_nano_usd, spent_tokens)
  SELECT day, tenant, kind, name, '', sum(nano_usd), sum(tokens)
  FROM parts GROUP BY day, tenant, kind, name ORDER BY day, tenant, kind, name
  ON CONFLICT (day, tenant, kind, name) DO UPDATE SET
    spent_nano_usd = s.spent_nano_usd + excluded.spent_nano_usd,
    spent_tokens = s.spent_tokens + excluded.spent_tokens,
    reserved_nano_usd = s.reserved_nano_usd - excluded.spent_nano_usd,
    reserved_tokens = s.reserved_tokens - excluded.spent_tokens
)
SELECT count(*) FROM gone
"""
_SPENDING: Final = """
WITH today AS (SELECT coalesce($1::date, (now() AT TIME ZONE 'UTC')::date) AS day)
SELECT today.day, kind, name, label, spent_nano_usd, spent_tokens, reserved_nano_usd, reserved_tokens
FROM today LEFT JOIN spending s
  ON s.day = today.day AND tenant = $2 AND (kind = 2 OR (kind = 1 AND name = $3))
"""


@dataclass(frozen=True, slots=True)
class Share:
    """One budget that a call is set aside from; an empty name: none. None: no limit of that sort."""

    name: str = ""
    label: str = ""
    nano_usd: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Reserve:
    """To be set aside from a key and an agent, or from none of them."""

    hold_id: UUID
    process_id: UUID
    tenant: str
    nano_usd: int
    tokens: int
    key: Share
    agent: Share


@dataclass(frozen=True, slots=True)
class Settle:
    """What a call took of what was set aside for it."""

    hold_id: UUID
    nano_usd: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What one budget has seen on one day."""

    kind: BudgetKind
    name: str
    label: str
    nano_usd: int
    tokens: int
    reserved_nano_usd: int
    reserved_tokens: int


# What stood in the way of setting aside, 0 if nothing did: see settle_and_reserve in migrations.
Refusal = int


async def step(
    connection: asyncpg.Connection, items: Sequence[Reserve | Settle], day: date | None = None
) -> list[Refusal]:
    """Settles, then sets aside; one answer per item. `day` stands in for the day of the database's clock."""
    settles = [one for one in items if isinstance(one, Settle)]
    reserves = [one for one in items if isinstance(one, Reserve)]
    answers: list[Refusal] = await connection.fetchval(
        _STEP,
        [one.hold_id for one in settles],
        [one.nano_usd for one in settles],
        [one.tokens for one in settles],
        reserves[0].process_id if reserves else None,
        day,
        [one.hold_id for one in reserves],
        [one.tenant for one in reserves],
        [one.nano_usd for one in reserves],
        [one.tokens for one in reserves],
        *_columns([one.key for one in reserves]),
        *_columns([one.agent for one in reserves]),
    )
    left = iter(answers)
    return [0 if isinstance(one, Settle) else next(left) for one in items]


async def book(connection: asyncpg.Connection, bookings: Sequence[Booking], day: date | None = None) -> None:
    """Records what was spent without having been set aside."""
    await connection.execute(
        _BOOK,
        day,
        [one.tenant for one in bookings],
        [int(one.kind) for one in bookings],
        [one.name for one in bookings],
        [one.label for one in bookings],
        [one.nano_usd for one in bookings],
        [one.tokens for one in bookings],
    )


async def charge(database: Store, most: int) -> int:
    """Books in full what processes that have gone had set aside, up to so many calls; how many there were.

    Raises Unavailable.
    """
    async with database.transaction() as connection:
        charged: int = await connection.fetchval(_CHARGE, most)
    return charged


async def spending(
    database: Store, tenant: str, key: str, day: date | None = None
) -> tuple[date, list[Spent]]:
    """What a key and its tenant's agents have spent on the day, and which day it is. Raises Unavailable."""
    try:
        rows = await database.pool.fetch(_SPENDING, day, tenant, key)
    except Exception as error:
        if is_transient(error):
            raise unavailable(error) from error
        raise
    found = [
        Spent(
            BudgetKind(row["kind"]),
            row["name"],
            row["label"],
            row["spent_nano_usd"],
            row["spent_tokens"],
            row["reserved_nano_usd"],
            row["reserved_tokens"],
        )
        for row in rows
        if row["kind"] is not None
    ]
    return rows[0]["day"], found


def _columns(shares: Sequence[Share]) -> tuple[list[Any], ...]:
    return (
        [one.name for one in shares],
        [one.label for one in shares],
        [one.nano_usd for one in shares],
        [one.tokens for one in shares],
    )
