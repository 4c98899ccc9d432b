"""SQL of records: what is stored, and lists of it, which are of one tenant or of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, NamedTuple

import asyncpg

from services.feedback.records import DELIVERIES, Kind, Row, first_of_each
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from services.mesh.tenancy import tenant_of

# Name of the kind in `heads`; outcome_store.py writes it.
OUTCOME: Final = "outcome"


class Fate(Enum):
    """What became of a record."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True)
class Filter:
    """Which outcomes; None or empty means all, of a tenant or of the mesh. Names are qualified."""

    tenant: str = DEFAULT_TENANT
    statuses: Sequence[int] = ()
    agent_name: str = ""
    workflow_id: str = ""
    start: datetime | None = None
    end: datetime | None = None


class Place(NamedTuple):
    """Where a page of outcomes ended: newest first, then by number."""

    at: datetime
    number: int


class Stored(NamedTuple):
    """A record as it lies in the store: whose it is, and itself with plain ids."""

    number: int
    at: datetime
    tenant: str
    body: bytes

    @property
    def place(self) -> Place:
        """Where it stands among all, newest first."""
        return Place(self.at, self.number)


class Counts(NamedTuple):
    """Outcomes of one agent by how they ended."""

    agent_name: str
    total: int
    failures: int
    timeouts: int
    cancelled: int
    partial: int


async def store(connection: asyncpg.Connection, kind: Kind[Any], rows: Sequence[Row]) -> list[Fate]:
    """Stores what is new; the fate of each row, in order. In the caller's transaction.

    The kind's head row is locked until the transaction ends, so writers follow each other.
    """
    last: int = await connection.fetchval("SELECT last FROM heads WHERE kind = $1 FOR UPDATE", kind.name)
    known = {
        found["id"]: found["digest"]
        for found in await connection.fetch(
            f"SELECT id, digest FROM {kind.table} WHERE id = ANY($1::text[])", [one.id for one in rows]
        )
    }
    firsts = first_of_each(rows)
    new = [rows[place] for one, place in firsts.items() if one not in known]
    if new:
        names = ["number", "id", "digest", "at", *kind.columns, "body"]
        types = ["bigint", "text", "bytea", "timestamptz", *(t for t, _ in kind.columns.values()), "bytea"]
        casts = ", ".join(f"${n}::{type_}[]" for n, type_ in enumerate(types, 1))
        await connection.execute(
            f"INSERT INTO {kind.table} ({', '.join(names)}) SELECT * FROM unnest({casts})",
            [last + n for n in range(1, len(new) + 1)],
            [one.id for one in new],
            [one.digest for one in new],
            [one.at for one in new],
            *([one.values[n] for one in new] for n in range(len(kind.columns))),
            [one.body for one in new],
        )
        await connection.execute("UPDATE heads SET last = $2 WHERE kind = $1", kind.name, last + len(new))
    fates = []
    for place, one in enumerate(rows):
        digest = known.get(one.id)
        if digest is None and firsts[one.id] == place:
            fates.append(Fate.STORED)
        else:
            before = digest if digest is not None else rows[firsts[one.id]].digest
            fates.append(Fate.DUPLICATE if before == one.digest else Fate.CONFLICT)
    return fates


async def last_number(pool: asyncpg.Pool, kind: str) -> int:
    """Number of the newest record of the kind (`outcome`, `delivery`, `signal`), 0 if there is none."""
    found: int = await pool.fetchval("SELECT last FROM heads WHERE kind = $1", kind)
    return found


async def newest_outcomes(
    pool: asyncpg.Pool, wanted: Filter, limit: int, before: Place | None
) -> list[Stored]:
    """Outcomes that match, newest first, after the place where the last page ended."""
    where, values = _conditions(wanted)
    if before is not None:
        values += [before.at, before.number]
        where.append(f"(at, number) < (${len(values) - 1}, ${len(values)})")
    values.append(limit)
    rows = await pool.fetch(
        f"SELECT number, at, id, body FROM outcomes {_where(where)}"
        f" ORDER BY at DESC, number DESC LIMIT ${len(values)}",
        *values,
    )
    return [_stored(found) for found in rows]


async def outcomes_after(
    pool: asyncpg.Pool, number: int, wanted: Filter, limit: int
) -> tuple[list[Stored], int]:
    """Matching outcomes numbered above `number`, oldest first, and the number up to which all is seen now."""
    where, values = _conditions(wanted)
    values.append(number)
    where.append(f"number > ${len(values)}")
    # The head first: what commits between the two reads is above it and comes with the next call.
    last = await last_number(pool, OUTCOME)
    values.append(last)
    where.append(f"number <= ${len(values)}")
    rows = await pool.fetch(
        f"SELECT number, at, id, body FROM outcomes {_where(where)} ORDER BY number LIMIT {limit:d}", *values
    )
    found = [_stored(one) for one in rows]
    return found, found[-1].number if len(found) == limit else max(last, number)


async def deliveries_after(
    pool: asyncpg.Pool,
    number: int,
    limit: int,
    *,
    tenant: str = DEFAULT_TENANT,
    order_id: str = "",
    driver_id: str = "",
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[Stored]:
    """Matching deliveries numbered above `number`, in the order in which they were stored."""
    where: list[str] = ["number > $1"]
    values: list[Any] = [number]
    conditions: list[tuple[str, Any]] = [
        ("tenant_of(id) =", None if order_id or driver_id else _only(tenant)),
        ("order_id =", order_id or None),
        ("driver_id =", driver_id or None),
        ("at >=", start),
        ("at <", end),
    ]
    _extend(where, values, conditions)
    rows = await pool.fetch(
        f"SELECT number, at, id, body FROM {DELIVERIES.table} {_where(where)}"
        f" ORDER BY number LIMIT {limit:d}",
        *values,
    )
    return [_stored(found) for found in rows]


async def failure_counts(pool: asyncpg.Pool, start: datetime, tenant: str, agent_name: str) -> list[Counts]:
    """Outcomes since `start` by agent and how they ended (numbers of OutcomeStatus)."""
    conditions, values = _conditions(Filter(tenant=tenant, agent_name=agent_name, start=start))
    where = _where(conditions)
    rows = await pool.fetch(
        f"""
        SELECT agent_name, count(*) AS total,
               count(*) FILTER (WHERE status = 2) AS failures,
               count(*) FILTER (WHERE status = 4) AS timeouts,
               count(*) FILTER (WHERE status = 5) AS cancelled,
               count(*) FILTER (WHERE status = 3) AS partial
        FROM outcomes {where}
        GROUP BY agent_name ORDER BY agent_name
        """,
        *values,
    )
    return [Counts(*found.values()) for found in rows]


def _conditions(wanted: Filter) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    values: list[Any] = []
    if wanted.statuses:
        values.append(list(wanted.statuses))
        where.append(f"status = ANY(${len(values)}::smallint[])")
    _extend(
        where,
        values,
        [
            # What a qualified name is of is of its tenant.
            ("tenant_of(id) =", None if wanted.agent_name or wanted.workflow_id else _only(wanted.tenant)),
            ("agent_name =", wanted.agent_name or None),
            ("workflow_id =", wanted.workflow_id or None),
            ("at >=", wanted.start),
            ("at <", wanted.end),
        ],
    )
    return where, values


def _only(tenant: str) -> str | None:
    return None if tenant == MESH_TENANT else tenant


def _stored(row: asyncpg.Record) -> Stored:
    return Stored(row["number"], row["at"], tenant_of(row["id"]), row["body"])


def _extend(where: list[str], values: list[Any], conditions: Sequence[tuple[str, Any]]) -> None:
    for left, value in conditions:
        if value is not None:
            values.append(value)
            where.append(f"{left} ${len(values)}")


def _where(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""
