"""SQL of windows: outcomes as columns, workflows, the windows themselves, and how far they have come."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import asyncpg
import numpy as np
from numpy.typing import NDArray
from waymesh.feedback.v1.metrics_pb2 import AgentMetrics

from services.feedback.metrics_columns import ABSENT, MOST_MS, Columns, Ints
from services.feedback.metrics_spec import LONGEST
from services.feedback.panes import Span
from services.feedback.store import Place
from services.feedback.totals import MESH_TOTAL
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from services.mesh.tenancy import plain

# PostgreSQL counts time in microseconds from 2000 on.
_EPOCH_2000: Final = 946_684_800_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = int(np.iinfo(np.int64).min) // 2

# Arrays as PostgreSQL sends them are read as they are: an object per value would cost more than all the rest.
_COLUMNS: Final = """
SELECT array_send(array_agg(number)), array_send(array_agg(at)), array_send(array_agg(stored_at)),
       array_send(array_agg(status)), array_send(array_agg(severity)), array_send(array_agg(latency_ms)),
       array_send(array_agg(tokens_used)), array_send(array_agg(cost_estimate)),
       array_send(array_agg(coalesce(started, '-infinity'))),
       array_send(array_agg(coalesce(ended, '-infinity'))),
       array_agg(agent_name), array_agg(error_type), array_agg(workflow_id)
FROM (
  SELECT * FROM outcomes WHERE number > $1 AND number <= $2 {further} ORDER BY number LIMIT $3
) AS found
"""
_NEXT: Final = _COLUMNS.format(further="")
_AGAIN: Final = _COLUMNS.format(further="AND at >= $4")
_HEADS: Final = """
SELECT max(last) FILTER (WHERE kind = 'outcome'), max(last) FILTER (WHERE kind = 'signal') FROM heads
"""
_POSITION: Final = "SELECT since, number, watermark, too_late FROM windows_position"
_MOVE: Final = """
UPDATE windows_position SET number = $2, watermark = $3, too_late = $4 WHERE number = $1 RETURNING true
"""
_WRITE: Final = """
INSERT INTO windows (window_name, start_at, end_at, agent_name, revision, body)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::text[], $5::integer[], $6::bytea[])
ON CONFLICT (window_name, start_at, agent_name)
DO UPDATE SET revision = excluded.revision, body = excluded.body
"""
_WORKFLOWS: Final = """
SELECT workflow_id, max(at), min(started), max(ended) FROM outcomes o
WHERE workflow_id = ANY($1::text[]) AND workflow_id <> '' AND number > $2 AND number <= $3
  AND (at < $4 OR number <= $5)
  AND NOT EXISTS (SELECT FROM outcomes_too_late l WHERE l.number = o.number)
GROUP BY workflow_id
"""
_TOO_LATE: Final = "INSERT INTO outcomes_too_late SELECT * FROM unnest($1::bigint[])"
_STORED: Final = "SELECT agent_name, body FROM windows WHERE end_at > $1"
_DISCARD: Final = """
DELETE FROM windows WHERE ctid = ANY (ARRAY(
  SELECT ctid FROM windows WHERE made_at < $1 ORDER BY made_at LIMIT $2
))
"""
_FORGET: Final = """
DELETE FROM outcomes_too_late WHERE number IN (
  SELECT number FROM outcomes_too_late
  WHERE number < (SELECT number FROM outcomes ORDER BY number LIMIT 1) ORDER BY number LIMIT $1
)
"""

# A window's mark among those of its start, for page tokens: an agent's name would not fit.
_MARK: Final = "hashtextextended(window_name || '/' || agent_name, 0) & 9223372036854775807"
_MARKED: Final = f"SELECT start_at, agent_name, window_name FROM windows WHERE start_at = $1 AND {_MARK} = $2"
# Where there is no tenant but the default one, what is its own is the mesh's.
_OF_MESH: Final = f"""(agent_name = '{MESH_TOTAL}' OR (agent_name = '' AND NOT EXISTS (
  SELECT FROM windows AS m WHERE m.window_name = windows.window_name AND m.start_at = windows.start_at
    AND m.agent_name = '{MESH_TOTAL}')))"""


@dataclass(frozen=True, slots=True)
class WindowFilter:
    """Which windows; None or empty means all, of a tenant or of the mesh.

    `agents` are qualified; `together`: of all agents together, of the tenant or of the mesh. `start` and
    `end`: those that share any time with these.
    """

    tenant: str = DEFAULT_TENANT
    agents: Sequence[str] = ()
    together: bool = False
    window: str = ""
    start: datetime | None = None
    end: datetime | None = None


class WindowKey(NamedTuple):
    """Where a window stands among all."""

    start: datetime
    agent_name: str
    window: str


class Heads(NamedTuple):
    """Numbers of the newest outcome and of the newest signal."""

    outcomes: int
    signals: int


class Position(NamedTuple):
    """How far windows have come; see the table."""

    since: int
    number: int
    watermark: int
    too_late: int


async def heads(connection: asyncpg.Connection) -> Heads:
    return Heads(*await connection.fetchrow(_HEADS))


async def position(connection: asyncpg.Connection) -> Position:
    return Position(*await connection.fetchrow(_POSITION))


async def move(connection: asyncpg.Connection, old: int, new: Position) -> bool:
    """Moves the position on; False if it is not at `old` any more: somebody else has moved it."""
    return bool(await connection.fetchval(_MOVE, old, new.number, new.watermark, new.too_late))


async def columns(
    connection: asyncpg.Connection, after: int, upto: int, limit: int, since_time: int | None = None
) -> Columns | None:
    """Outcomes numbered above `after` up to `upto`, the first `limit` of them; None if there are none.

    `since_time`: only those of that time and later, in Unix microseconds.
    """
    if since_time is None:
        row = await connection.fetchrow(_NEXT, after, upto, limit)
    else:
        row = await connection.fetchrow(_AGAIN, after, upto, limit, _time(since_time))
    if row[0] is None:
        return None
    return Columns(
        _ints(row[0]), _times(row[1]), _times(row[2]),
        _values(row[3], ">i2").astype(np.int64), _values(row[4], ">i2").astype(np.int64),
        _values(row[5], ">f8").astype(np.float64),
        _ints(row[6]),
        _values(row[7], ">f8").astype(np.float64),
        _times(row[8]), _times(row[9]),
        row[10], row[11], row[12],
    )  # fmt: skip


async def workflows(
    connection: asyncpg.Connection,
    ids: Sequence[str],
    after: int,
    upto: int,
    before_time: int | None = None,
    read: int = 0,
) -> dict[str, Span]:
    """What their outcomes numbered above `after` up to `upto` tell of workflows that have any.

    `before_time`: of those above `read`, only what was before this time, in Unix microseconds.
    """
    if not ids:
        return {}
    limit = datetime.max.replace(tzinfo=UTC) if before_time is None else _time(before_time)
    rows = await connection.fetch(_WORKFLOWS, ids, after, upto, limit, read)
    return {name: Span(_micros(newest), _micros(start), _micros(end)) for name, newest, start, end in rows}


async def mark_too_late(connection: asyncpg.Connection, numbers: Sequence[int]) -> None:
    """Keeps in mind which outcomes of workflows came too late."""
    await connection.execute(_TOO_LATE, numbers)


async def write(connection: asyncpg.Connection, windows: Sequence[AgentMetrics]) -> None:
    """Writes windows, each at most once in `windows`, over what was there."""
    await connection.execute(
        _WRITE,
        [one.window for one in windows],
        [one.window_start.ToDatetime(UTC) for one in windows],
        [one.window_end.ToDatetime(UTC) for one in windows],
        [one.agent_name for one in windows],
        [one.revision for one in windows],
        [told(one).SerializeToString() for one in windows],
    )


def told(window: AgentMetrics) -> AgentMetrics:
    """The window as its tenant knows it, and as it is stored: with the plain name of the agent."""
    if "/" not in window.agent_name:
        return window
    found = AgentMetrics()
    found.CopyFrom(window)
    _rename(found, plain(window.agent_name))
    return found


async def stored(connection: asyncpg.Connection, ends_after: int) -> Iterable[AgentMetrics]:
    """Windows that end after this time, in Unix microseconds."""
    return [_read(agent, body) for agent, body in await connection.fetch(_STORED, _time(ends_after))]


async def newest(
    pool: asyncpg.Pool, wanted: WindowFilter, limit: int, after: WindowKey | None
) -> list[tuple[Place, AgentMetrics]]:
    """Windows that match, the newest start first, then by agent and window, that follow `after`.

    With qualified names of agents.
    """
    values: list[object] = [limit]
    where: list[str] = []

    def such(condition: str, *of: object) -> None:
        places = range(len(values) + 1, len(values) + 1 + len(of))
        values.extend(of)
        where.append(condition.format(*(f"${place}" for place in places)))

    if wanted.together and wanted.tenant == MESH_TENANT:
        such(_OF_MESH)
    elif wanted.agents:
        such("agent_name = ANY({}::text[])", list(wanted.agents))
    elif wanted.tenant != MESH_TENANT:
        such("tenant_of(agent_name) = {}", wanted.tenant)
    if wanted.window:
        such("window_name = {}", wanted.window)
    if wanted.start is not None:
        # No window is longer: so much is looked at, not all that was before.
        such("end_at > {0} AND start_at > {0}::timestamptz - {1}::interval", wanted.start, LONGEST)
    if wanted.end is not None:
        such("start_at < {}", wanted.end)
    if after is not None:
        such("start_at <= {0} AND (start_at < {0} OR (agent_name, window_name) > ({1}, {2}))", *after)
    rows = await pool.fetch(
        f"SELECT start_at, {_MARK} AS mark, agent_name, body FROM windows"
        f" {'WHERE ' + ' AND '.join(where) if where else ''}"
        " ORDER BY start_at DESC, agent_name, window_name LIMIT $1",
        *values,
    )
    return [(Place(start, mark), _read(agent, body)) for start, mark, agent, body in rows]


async def window_at(pool: asyncpg.Pool, place: Place) -> WindowKey | None:
    """The window at a place that `newest` gave; None if it is not kept any more."""
    row = await pool.fetchrow(_MARKED, *place)
    return None if row is None else WindowKey(*row)


async def discard(connection: asyncpg.Connection, made_before: datetime, limit: int) -> int:
    """Deletes at most `limit` windows that were first written before this time, and marks nobody needs."""
    gone = [await connection.execute(_DISCARD, made_before, limit), await connection.execute(_FORGET, limit)]
    return max(int(tag.rpartition(" ")[2]) for tag in gone)


def _rename(window: AgentMetrics, agent_name: str) -> None:
    """Its identity ends with the name of the agent."""
    window.metrics_id = window.metrics_id.removesuffix(window.agent_name) + agent_name
    window.agent_name = agent_name


def _read(agent_name: str, body: bytes) -> AgentMetrics:
    """A window as it was written; sums that ran over before amounts had bounds are the most there may be."""
    found = AgentMetrics.FromString(body)
    if found.agent_name != agent_name:
        _rename(found, agent_name)
    for field, value in found.ListFields():
        if isinstance(value, float) and not math.isfinite(value):
            setattr(found, field.name, MOST_MS)
    return found


def _values(sent: bytes, kind: str) -> NDArray[np.generic]:
    """The values of an array of one dimension and without nulls as array_send gives it.

    Its header is dimensions, flags, type, length and first index, 4 bytes each; then each value after its own
    length. src/backend/utils/adt/arrayfuncs.c of PostgreSQL.
    """
    values: NDArray[np.generic] = np.frombuffer(
        sent, np.dtype([("length", ">i4"), ("value", kind)]), offset=20
    )["value"]
    return values


def _ints(sent: bytes) -> Ints:
    return _values(sent, ">i8").astype(np.int64)


def _times(sent: bytes) -> Ints:
    times = _ints(sent)
    # -infinity, which stands for none, is the least of all.
    return np.where(times == ABSENT, ABSENT, times + _EPOCH_2000)


def _time(micros: int) -> datetime:
    """The time; the earliest there is, for one before it."""
    if micros < _FIRST:
        return datetime.min.replace(tzinfo=UTC)
    return _EPOCH + timedelta(microseconds=micros)


def _micros(time: datetime | None) -> int:
    return ABSENT if time is None else (time - _EPOCH) // timedelta(microseconds=1)
