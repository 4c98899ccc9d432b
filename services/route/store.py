"""SQL of route. Every function works within the caller's transaction; rows are always locked in the order of
their ids, couriers before orders before plans, so that transactions wait for each other but never in a
circle."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from services.route.fixes import Newest
from services.route.identity import Known, Status

# asyncpg has no types of its own for pooled connections.
Connection = Any
Kind = Literal["o", "c"]

# Digests kept per courier: a retry that is older than this is refused as stale.
_COURIER_REVISIONS: Final = 32


@dataclass(frozen=True, slots=True)
class OrderRow:
    """An order as stored."""

    order_id: str
    revision: int
    status: Status
    driver_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class OrderWrite:
    """A new state of an order."""

    order_id: str
    revision: int
    status: Status
    driver_id: str
    priority: int
    placed_at: datetime
    body: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class CourierWrite:
    """A new state of a courier."""

    driver_id: str
    revision: int
    status: int
    body: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class Position:
    """Where a device was last. `fixed_at` is the source's time."""

    lat: float
    lon: float
    fixed_at: datetime
    stage: int


@dataclass(frozen=True, slots=True)
class AtWorkRow:
    """A courier who is idle or busy, with how many orders. With another body `state` is another."""

    driver_id: str
    state: tuple[int, datetime]
    fix: Position | None
    orders: int


@dataclass(frozen=True, slots=True)
class StoredPlan:
    """A courier's planned stops."""

    version: int
    body: bytes


@dataclass(frozen=True, slots=True)
class PlanWrite:
    """New planned stops of a courier, and the ends of the leg under way (lat, lon)."""

    driver_id: str
    orders: int
    origin: tuple[float, float]
    target: tuple[float, float]
    body: bytes


async def lock_orders(
    conn: Connection, order_ids: Collection[str], create: Collection[str] = ()
) -> dict[str, OrderRow]:
    """Locks these orders until the transaction ends. Those of `create` that are unknown get a row of
    revision 0 first, so that nobody else can make them meanwhile; `drop_empty` takes away what stays at 0."""
    if create:
        await conn.execute(
            """
            INSERT INTO orders (order_id, revision, status, driver_id, priority, placed_at, body)
            SELECT id, 0, 0, '', 0, now(), '' FROM unnest($1::text[]) WITH ORDINALITY AS t (id, n) ORDER BY n
            ON CONFLICT DO NOTHING
            """,
            sorted(create),
        )
    rows = await conn.fetch(
        """
        SELECT order_id, revision, status, driver_id, body FROM orders
        WHERE order_id = ANY ($1::text[]) ORDER BY order_id FOR UPDATE
        """,
        sorted(order_ids),
    )
    return {row["order_id"]: _order_row(row) for row in rows if row["revision"]}


async def drop_empty(conn: Connection, order_ids: Collection[str]) -> None:
    """Takes away the rows that `lock_orders` made for orders that were then refused."""
    await conn.execute(
        "DELETE FROM orders WHERE order_id = ANY ($1::text[]) AND revision = 0", list(order_ids)
    )


async def write_orders(conn: Connection, states: Sequence[OrderWrite]) -> None:
    """Stores states of orders, locked before: of several of one order the last stays, the digests of all."""
    if not states:
        return
    writes = list({state.order_id: state for state in states}.values())
    await conn.execute(
        """
        WITH written AS (
            INSERT INTO revisions (kind, id, revision, digest)
            SELECT 'o', * FROM unnest($8::text[], $9::int[], $10::bytea[]))
        INSERT INTO orders AS o
            (order_id, revision, status, driver_id, priority, placed_at, body)
        SELECT * FROM unnest($1::text[], $2::int[], $3::smallint[], $4::text[], $5::int[], $6::timestamptz[],
                             $7::bytea[])
        ON CONFLICT (order_id) DO UPDATE SET
            revision = excluded.revision, status = excluded.status, driver_id = excluded.driver_id,
            priority = excluded.priority, placed_at = excluded.placed_at, body = excluded.body,
            changed_at = now()
        """,
        [w.order_id for w in writes],
        [w.revision for w in writes],
        [int(w.status) for w in writes],
        [w.driver_id for w in writes],
        [w.priority for w in writes],
        [w.placed_at for w in writes],
        [w.body for w in writes],
        [s.order_id for s in states],
        [s.revision for s in states],
        [s.digest for s in states],
    )


async def lock_couriers(conn: Connection, driver_ids: Collection[str]) -> dict[str, int]:
    """Locks these couriers, making rows of revision 0 for those unknown; gives the revisions of those
    known."""
    ids = sorted(driver_ids)
    await conn.execute(
        """
        INSERT INTO couriers (driver_id, revision, status, body)
        SELECT id, 0, 0, '' FROM unnest($1::text[]) WITH ORDINALITY AS t (id, n) ORDER BY n
        ON CONFLICT DO NOTHING
        """,
        ids,
    )
    rows = await conn.fetch(
        """
        SELECT driver_id, revision FROM couriers
        WHERE driver_id = ANY ($1::text[]) ORDER BY driver_id FOR UPDATE
        """,
        ids,
    )
    return {row["driver_id"]: row["revision"] for row in rows if row["revision"]}


async def drop_empty_couriers(conn: Connection, driver_ids: Collection[str]) -> None:
    """Takes away the rows that `lock_couriers` made for couriers that were then refused."""
    await conn.execute(
        "DELETE FROM couriers WHERE driver_id = ANY ($1::text[]) AND revision = 0", list(driver_ids)
    )


async def write_couriers(conn: Connection, states: Sequence[CourierWrite]) -> None:
    """Stores states of couriers, locked before: of several of one courier the last stays, the digests of
    all."""
    if not states:
        return
    writes = list({state.driver_id: state for state in states}.values())
    await conn.execute(
        """
        UPDATE couriers AS c SET revision = t.revision, status = t.status, body = t.body, changed_at = now()
        FROM unnest($1::text[], $2::int[], $3::smallint[], $4::bytea[]) AS t (id, revision, status, body)
        WHERE c.driver_id = t.id
        """,
        [w.driver_id for w in writes],
        [w.revision for w in writes],
        [w.status for w in writes],
        [w.body for w in writes],
    )
    await conn.execute(
        """
        INSERT INTO revisions (kind, id, revision, digest)
        SELECT 'c', * FROM unnest($1::text[], $2::int[], $3::bytea[])
        """,
        [s.driver_id for s in states],
        [s.revision for s in states],
        [s.digest for s in states],
    )
    await conn.execute(
        """
        DELETE FROM revisions AS r USING unnest($1::text[], $2::int[]) AS t (id, revision)
        WHERE r.kind = 'c' AND r.id = t.id AND r.revision <= t.revision - $3
        """,
        [w.driver_id for w in writes],
        [w.revision for w in writes],
        _COURIER_REVISIONS,
    )


async def known(
    conn: Connection, kind: Kind, newest: Mapping[str, tuple[int, Status | None]]
) -> dict[str, Known]:
    """What is stored of these ids, given their newest revision and status."""
    if not newest:
        return {}
    rows = await conn.fetch(
        """
        SELECT id, revision, digest FROM revisions WHERE kind = $1::text::"char" AND id = ANY ($2::text[])
        """,
        kind,
        list(newest),
    )
    digests: dict[str, dict[int, bytes]] = {id_: {} for id_ in newest}
    for row in rows:
        digests[row["id"]][row["revision"]] = row["digest"]
    return {id_: Known(revision, status, digests[id_]) for id_, (revision, status) in newest.items()}


async def get_order(conn: Connection, order_id: str) -> tuple[bytes, bytes | None] | None:
    """Bodies of the order and its allocation (if its courier is still the allocated one), or None."""
    row = await conn.fetchrow(
        """
        SELECT o.body, a.body AS allocation FROM orders o
        LEFT JOIN allocations a ON a.order_id = o.order_id AND a.driver_id = o.driver_id
        WHERE o.order_id = $1 AND o.revision > 0
        """,
        order_id,
    )
    return None if row is None else (row["body"], row["allocation"])


async def waiting_orders(
    conn: Connection, tenant: str, order_ids: Sequence[str], limit: int
) -> list[OrderRow]:
    """A tenant's orders without a courier, most urgent first; only `order_ids` if any are given."""
    if order_ids:
        rows = await conn.fetch(
            """
            SELECT order_id, revision, status, driver_id, body FROM orders
            WHERE tenant = $1 AND order_id = ANY ($2::text[]) AND status = 1
            ORDER BY priority DESC, placed_at, order_id LIMIT $3
            """,
            tenant,
            list(order_ids),
            limit,
        )
    else:
        rows = await conn.fetch(
            """
            SELECT order_id, revision, status, driver_id, body FROM orders
            WHERE tenant = $1 AND status = 1 ORDER BY priority DESC, placed_at, order_id LIMIT $2
            """,
            tenant,
            limit,
        )
    return [_order_row(row) for row in rows]


async def any_waiting(conn: Connection) -> bool:
    """Whether an order is without a courier."""
    return bool(await conn.fetchval("SELECT EXISTS (SELECT FROM orders WHERE status = 1)"))


async def tenants_waiting(conn: Connection) -> list[str]:
    """Who has orders without a courier."""
    rows = await conn.fetch("SELECT DISTINCT tenant FROM orders WHERE status = 1 ORDER BY tenant")
    return [row["tenant"] for row in rows]


async def orders(conn: Connection, order_ids: Sequence[str]) -> dict[str, OrderRow]:
    """These orders, not locked."""
    rows = await conn.fetch(
        "SELECT order_id, revision, status, driver_id, body FROM orders WHERE order_id = ANY ($1::text[])",
        list(order_ids),
    )
    return {row["order_id"]: _order_row(row) for row in rows if row["revision"]}


async def carried(conn: Connection, driver_ids: Sequence[str]) -> list[OrderRow]:
    """Orders that these couriers carry or are to fetch."""
    rows = await conn.fetch(
        """
        SELECT order_id, revision, status, driver_id, body FROM orders
        WHERE driver_id = ANY ($1::text[]) AND status IN (2, 3) ORDER BY order_id
        """,
        list(driver_ids),
    )
    return [_order_row(row) for row in rows]


async def couriers_at_work(conn: Connection, tenant: str) -> list[AtWorkRow]:
    """A tenant's couriers who are idle or busy, without their bodies."""
    rows = await conn.fetch(
        """
        SELECT c.driver_id, c.revision, c.changed_at, p.lat, p.lon, p.fixed_at, p.stage,
            coalesce(o.orders, 0) AS orders
        FROM couriers c
        LEFT JOIN positions p USING (driver_id)
        LEFT JOIN (
            SELECT driver_id, count(*) AS orders FROM orders
            WHERE tenant = $1 AND status IN (2, 3) GROUP BY driver_id
        ) o USING (driver_id)
        WHERE c.tenant = $1 AND c.status IN (2, 3) ORDER BY c.driver_id
        """,
        tenant,
    )
    return [
        AtWorkRow(row["driver_id"], (row["revision"], row["changed_at"]), _position(row), row["orders"])
        for row in rows
    ]


async def courier_bodies(conn: Connection, driver_ids: Sequence[str]) -> dict[str, bytes]:
    """Bodies of these couriers."""
    rows = await conn.fetch(
        "SELECT driver_id, body FROM couriers WHERE driver_id = ANY ($1::text[])", list(driver_ids)
    )
    return {row["driver_id"]: row["body"] for row in rows}


async def courier(conn: Connection, driver_id: str) -> tuple[bytes | None, Position | None]:
    """Body of a courier, if known, and the newest fix of that id, if any."""
    row = await conn.fetchrow(
        """
        SELECT c.body, p.lat, p.lon, p.fixed_at, p.stage
        FROM (SELECT $1::text AS driver_id) AS i
        LEFT JOIN couriers c ON c.driver_id = i.driver_id AND c.revision > 0
        LEFT JOIN positions p ON p.driver_id = i.driver_id
        """,
        driver_id,
    )
    return row["body"], _position(row)


async def fixes_for(conn: Connection, order_ids: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Newest fixes that name one of these orders: order_id, driver_id, stage, microseconds since the
    epoch."""
    rows = await conn.fetch(
        """
        SELECT order_id, driver_id, stage, (extract(epoch FROM fixed_at) * 1000000)::int8 AS us FROM positions
        WHERE order_id = ANY ($1::text[]) AND order_id <> '' ORDER BY fixed_at
        """,
        list(order_ids),
    )
    return [(row["order_id"], row["driver_id"], row["stage"], row["us"]) for row in rows]


async def known_couriers(conn: Connection, driver_ids: Sequence[str]) -> set[str]:
    """Which of these are couriers that were taken in."""
    rows = await conn.fetch(
        "SELECT driver_id FROM couriers WHERE driver_id = ANY ($1::text[]) AND revision > 0", list(driver_ids)
    )
    return {row["driver_id"] for row in rows}


async def save_positions(conn: Connection, newest: Mapping[str, Newest]) -> None:
    """Keeps the newest fix of each device; older ones than stored change nothing."""
    ids = sorted(newest)
    fixes = [newest[driver_id] for driver_id in ids]
    await conn.execute(
        """
        INSERT INTO positions AS p (driver_id, lat, lon, fixed_at, speed_kph, stage, order_id)
        SELECT id, lat, lon, timestamptz 'epoch' + us * interval '1 microsecond', speed, stage, order_id
        FROM unnest($1::text[], $2::float8[], $3::float8[], $4::int8[], $5::float8[], $6::smallint[],
                    $7::text[]) AS t (id, lat, lon, us, speed, stage, order_id)
        ON CONFLICT (driver_id) DO UPDATE SET
            lat = excluded.lat, lon = excluded.lon, fixed_at = excluded.fixed_at,
            speed_kph = excluded.speed_kph, stage = excluded.stage, order_id = excluded.order_id,
            heard_at = now()
        WHERE p.fixed_at < excluded.fixed_at
        """,
        ids,
        [fix.lat for fix in fixes],
        [fix.lon for fix in fixes],
        [fix.at_us for fix in fixes],
        [fix.speed_kph for fix in fixes],
        [fix.stage for fix in fixes],
        [fix.order_id for fix in fixes],
    )


def _order_row(row: Any) -> OrderRow:
    return OrderRow(row["order_id"], row["revision"], Status(row["status"]), row["driver_id"], row["body"])


def _position(row: Any) -> Position | None:
    if row["lat"] is None:
        return None
    return Position(row["lat"], row["lon"], row["fixed_at"], row["stage"])
