"""A look at what is stored, and at what readers were given."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState

from services.mesh.store import connect
from tests.faults.chaos.audit import Seen
from tests.faults.chaos.mesh import FRESH, LIVE, Mesh
from tests.faults.chaos.reader import BROADCAST, TOPICS

_LOOK_AGAIN_S: Final = 0.5
_BUS_ROWS: Final = """
SELECT l.event_id FROM bus.log l JOIN bus.partitions p ON p.part = l.part WHERE p.topic = $1
ORDER BY l.part, l.position
"""
_GIVEN: Final = """
SELECT topic, event_id, count(*) AS times FROM chaos.seen WHERE group_name = $1 GROUP BY topic, event_id
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows of the stores: ids, and of orders their revisions."""

    outcomes: list[str]
    deliveries: list[str]
    orders: list[tuple[str, int]]


async def stored(connection: asyncpg.Connection) -> Stored:
    """What the services hold."""
    outcomes = await connection.fetch("SELECT id FROM feedback.outcomes")
    deliveries = await connection.fetch("SELECT id FROM feedback.deliveries")
    orders = await connection.fetch("SELECT order_id, revision FROM route.orders WHERE revision > 0")
    return Stored(
        [row[0] for row in outcomes],
        [row[0] for row in deliveries],
        [(row[0], row[1]) for row in orders],
    )


async def lying(mesh: Mesh, connection: asyncpg.Connection) -> dict[str, Counter[str]]:
    """Topic to event id to how often it lies there, whether or not anybody is given it.

    The ids of a partition follow each other as they first came there.
    """
    found = {}
    for topic in TOPICS:
        if mesh.cluster is not None:
            ids = [_event_id(record.headers) for record in await mesh.cluster.look.records(topic)]
        else:
            ids = [row[0] for row in await connection.fetch(_BUS_ROWS, topic)]
        found[topic] = Counter(ids)
    return found


async def given(connection: asyncpg.Connection, group: str) -> Seen:
    """What a group's readers made of what they were given."""
    rows = await connection.fetch(_GIVEN, group)
    return Seen(group, {(row["topic"], row["event_id"]): row["times"] for row in rows})


async def alerts(connection: asyncpg.Connection, group: str) -> list[tuple[str, str, bool]]:
    """Key, id and whether it fires, as the group was told; those of one key in their order."""
    rows = await connection.fetch(
        "SELECT value FROM chaos.seen WHERE group_name = $1 AND topic = 'agent-alerts' "
        "ORDER BY partition, position",
        group,
    )
    told = [Alert.FromString(row["value"]) for row in rows]
    return [(one.alert_key, one.alert_id, one.state == AlertState.ALERT_STATE_FIRING) for one in told]


async def readers(
    mesh: Mesh,
    connection: asyncpg.Connection,
    lies: dict[str, Counter[str]],
    broadcast: Mapping[str, Sequence[str]],
    limit_s: float,
) -> list[Seen]:
    """Both groups: the one that read all the while, and one that is new. Waits until they have read all that
    lies there, and then for as long again as that may still turn out to be something twice. `broadcast` grows
    meanwhile: by GROUP:PID what readers of everything were given."""
    fresh = mesh.a_reader(FRESH)
    fresh.start()
    try:
        wanted = {(topic, id_) for topic, ids in lies.items() for id_ in ids}
        deadline = time.monotonic() + limit_s
        while True:
            seen = [await given(connection, group) for group in (LIVE, FRESH)]
            told = lies[BROADCAST].keys() <= set(to_all(broadcast, FRESH))
            if (told and _complete(seen[1:], wanted)) or time.monotonic() > deadline:
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        await _until_still(connection, deadline)
        return [await given(connection, group) for group in (LIVE, FRESH)]
    finally:
        await fresh.close()


def to_all(broadcast: Mapping[str, Sequence[str]], group: str) -> list[str]:
    """What readers of everything were given, of those that ran beside a group's."""
    return [id_ for life, ids in broadcast.items() if life.startswith(f"{group}:") for id_ in ids]


async def drained(mesh: Mesh, connection: asyncpg.Connection, limit_s: float) -> None:
    """Waits until nothing moves any more from outbox to topic to reader. Returns anyhow after the limit."""
    deadline = time.monotonic() + limit_s
    if mesh.cluster is not None:
        while time.monotonic() < deadline and await connection.fetchval("SELECT count(*) FROM bus.log"):
            await asyncio.sleep(_LOOK_AGAIN_S)
    await _until_still(connection, deadline)


async def _until_still(connection: asyncpg.Connection, deadline: float) -> None:
    """Several looks in a row that find the same."""
    before, same = -1, 0
    while same < 5 and time.monotonic() < deadline:
        rows = await connection.fetchval("SELECT count(*) FROM chaos.seen")
        same = same + 1 if rows == before else 0
        before = rows
        await asyncio.sleep(_LOOK_AGAIN_S)


def _complete(seen: Iterable[Seen], wanted: set[tuple[str, str]]) -> bool:
    return all(wanted <= one.times.keys() for one in seen)


def _event_id(headers: dict[str, bytes]) -> str:
    return headers.get("ce_id", b"").decode()


async def look(mesh: Mesh) -> asyncpg.Connection:
    """A connection of the audit's own. Others may write much: a look may take its time."""
    return await connect(mesh.dsn, timeout=30)
