"""SQL of allocations, planned stops, what is over, and the lock that says who allocates. Within the caller's
transaction."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from services.route.store import Connection, PlanWrite, StoredPlan

# Any number will do as long as it stays: the advisory lock that says who allocates.
ALLOCATING_LOCK: Final = 0x7761796D_726F7574


async def try_lock_allocating(conn: Connection) -> bool:
    """Takes the right to allocate for this connection if nobody else has it. It ends with the connection."""
    return bool(await conn.fetchval("SELECT pg_try_advisory_lock($1)", ALLOCATING_LOCK))


async def unlock_allocating(conn: Connection) -> None:
    """Gives the right to allocate back."""
    await conn.execute("SELECT pg_advisory_unlock($1)", ALLOCATING_LOCK)


async def lock_couriers_at_work(conn: Connection, driver_ids: Sequence[str]) -> set[str]:
    """Locks these couriers and gives those of them who may still get orders."""
    rows = await conn.fetch(
        """
        SELECT driver_id, status FROM couriers
        WHERE driver_id = ANY ($1::text[]) ORDER BY driver_id FOR UPDATE
        """,
        sorted(set(driver_ids)),
    )
    return {row["driver_id"] for row in rows if row["status"] in (2, 3)}


async def write_allocations(conn: Connection, rows: Sequence[tuple[str, str, bytes]]) -> None:
    """Stores (order_id, driver_id, body); an order's last allocation stays."""
    await conn.execute(
        """
        INSERT INTO allocations (order_id, driver_id, body)
        SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[])
        ON CONFLICT (order_id) DO UPDATE SET
            driver_id = excluded.driver_id, body = excluded.body, made_at = now()
        """,
        [row[0] for row in rows],
        [row[1] for row in rows],
        [row[2] for row in rows],
    )


async def allocations(conn: Connection, order_ids: Sequence[str]) -> dict[str, bytes]:
    """Bodies of these orders' allocations as far as the order still has that courier."""
    rows = await conn.fetch(
        """
        SELECT order_id, a.body FROM allocations a JOIN orders o USING (order_id, driver_id)
        WHERE order_id = ANY ($1::text[])
        """,
        list(order_ids),
    )
    return {row["order_id"]: row["body"] for row in rows}


async def plan(conn: Connection, driver_id: str, *, lock: bool = False) -> StoredPlan | None:
    """A courier's planned stops, locked until the transaction ends if asked."""
    row = await conn.fetchrow(
        "SELECT version, body FROM plans WHERE driver_id = $1" + (" FOR UPDATE" if lock else ""), driver_id
    )
    return None if row is None else StoredPlan(row["version"], row["body"])


async def write_plans(conn: Connection, writes: Sequence[PlanWrite]) -> None:
    """Stores new planned stops."""
    writes = sorted(writes, key=lambda write: write.driver_id)
    await conn.execute(
        """
        INSERT INTO plans AS p (driver_id, version, orders, from_lat, from_lon, next_lat, next_lon, body)
        SELECT id, 1, n, a, b, c, d, body
        FROM unnest($1::text[], $2::int[], $3::float8[], $4::float8[], $5::float8[], $6::float8[],
                    $7::bytea[]) AS t (id, n, a, b, c, d, body)
        ON CONFLICT (driver_id) DO UPDATE SET
            version = p.version + 1, orders = excluded.orders, from_lat = excluded.from_lat,
            from_lon = excluded.from_lon, next_lat = excluded.next_lat, next_lon = excluded.next_lon,
            body = excluded.body, made_at = now()
        """,
        [w.driver_id for w in writes],
        [w.orders for w in writes],
        [w.origin[0] for w in writes],
        [w.origin[1] for w in writes],
        [w.target[0] for w in writes],
        [w.target[1] for w in writes],
        [w.body for w in writes],
    )


async def drop_plan(conn: Connection, driver_id: str) -> None:
    """Forgets the stops of a courier who has no orders left."""
    await conn.execute("DELETE FROM plans WHERE driver_id = $1", driver_id)


async def legs(
    conn: Connection, driver_ids: Sequence[str]
) -> dict[str, tuple[tuple[float, float], tuple[float, float]]]:
    """Ends (lat, lon) of the leg under way of those couriers who have several orders and so a choice."""
    rows = await conn.fetch(
        """
        SELECT driver_id, from_lat, from_lon, next_lat, next_lon FROM plans
        WHERE driver_id = ANY ($1::text[]) AND orders >= 2
        """,
        list(driver_ids),
    )
    return {
        row["driver_id"]: ((row["from_lat"], row["from_lon"]), (row["next_lat"], row["next_lon"]))
        for row in rows
    }


async def forget_orders(conn: Connection, keep: timedelta, most: int) -> int:
    """Removes orders that are delivered or cancelled and have not changed for `keep`, with all about them."""
    rows = await conn.fetch(
        """
        DELETE FROM orders WHERE order_id IN (
            SELECT order_id FROM orders WHERE status IN (4, 5) AND changed_at < now() - $1::interval
            ORDER BY order_id LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING order_id
        """,
        keep,
        most,
    )
    ids = [row["order_id"] for row in rows]
    if ids:
        await conn.execute("DELETE FROM revisions WHERE kind = 'o' AND id = ANY ($1::text[])", ids)
        await conn.execute("DELETE FROM allocations WHERE order_id = ANY ($1::text[])", ids)
    return len(ids)


async def forget_positions(conn: Connection, keep: timedelta) -> None:
    """Removes where devices were that nobody has taken in as couriers and that no longer report."""
    await conn.execute(
        """
        DELETE FROM positions p WHERE heard_at < now() - $1::interval
        AND NOT EXISTS (SELECT FROM couriers c WHERE c.driver_id = p.driver_id)
        """,
        keep,
    )
