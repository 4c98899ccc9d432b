"""SQL for runs, nothing else.

Accepting runs and ending them are one statement each for all that come together: one round trip, one commit.
What is durable when: a run is accepted once its row is committed, and has ended once that row says so. Who
writes an end first wins; a row that is no longer under way keeps its end for ever, and an end that comes too
late adds what the run did and spent, if nobody has said that yet.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2  # type: ignore[import-untyped]
from waymesh.agent.v1 import run_pb2 as pb
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_INVALID_FIELD

from services.agents.budgets.account import Booking
from services.agents.runs import bounds
from services.agents.runs.line import Line
from services.agents.runs.record import (
    Accepted,
    Ended,
    NewRun,
    Place,
    RunFilter,
    StoredRun,
    cancelled,
    conflict,
    error_bytes,
    key_of,
)
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.store import GroupCommit, Store, is_transient, unavailable

# In the order of ids: two processes that are given the same runs wait for each other and never in a circle.
_ACCEPT: Final = """
INSERT INTO runs (id, tenant, run_id, key, agent_id, agent_name, agent_version, task, workflow_id,
                  request_hash, input, process_id, created_at)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[],
                     $8::text[], $9::text[], $10::bytea[], $11::bytea[], $12::uuid[], $13::timestamptz[])
ORDER BY 1
ON CONFLICT (id) DO NOTHING
RETURNING id
"""
_KNOWN: Final = "SELECT id, tenant, run_id, request_hash, status FROM runs WHERE id = ANY($1)"

# The rows are locked in the order of their ids, the days' spending in the order of its key. Only who is first
# to say what a run did (`usage` is NULL) also books what it spent: once, however often this is sent.
_END: Final = """
WITH given AS (
  SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::timestamptz[], $5::text[], $6::bytea[],
                       $7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[])
    AS g (id, process_id, status, ended_at, answer, output, response, error, degradation, usage, steps, told)
), held AS (
  SELECT r.id FROM runs r JOIN given g USING (id, process_id) ORDER BY r.id FOR NO KEY UPDATE OF r
), ended AS (
  UPDATE runs r SET
    status = CASE WHEN r.status = 1 THEN g.status ELSE r.status END,
    ended_at = CASE WHEN r.status = 1 THEN g.ended_at ELSE r.ended_at END,
    ended_by = CASE WHEN r.status = 1 THEN g.process_id ELSE r.ended_by END,
    answer = CASE WHEN r.status = 1 THEN g.answer ELSE r.answer END,
    output = CASE WHEN r.status = 1 THEN g.output ELSE r.output END,
    response = CASE WHEN r.status = 1 THEN g.response ELSE r.response END,
    error = CASE WHEN r.status = 1 THEN g.error ELSE r.error END,
    degradation = CASE WHEN r.status = 1 THEN g.degradation ELSE r.degradation END,
    usage = g.usage, steps = g.steps, told = g.told, cancelled_elsewhere = false
  FROM given g JOIN held USING (id)
  WHERE r.id = g.id AND r.usage IS NULL
  RETURNING r.id, r.ended_by = r.process_id AS won
), booked AS (
  INSERT INTO spending AS s (day, tenant, kind, name, label, spent_nano_usd, spent_tokens)
  SELECT (now() AT TIME ZONE 'UTC')::date, b.tenant, b.kind, b.name, max(b.label),
    sum(b.nano_usd), sum(b.tokens)
  FROM unnest($13::uuid[], $14::text[], $15::smallint[], $16::text[], $17::text[],
              $18::bigint[], $19::bigint[])
    AS b (id, tenant, kind, name, label, nano_usd, tokens) JOIN ended USING (id)
  GROUP BY b.tenant, b.kind, b.name
  ORDER BY b.tenant, b.kind, b.name
  ON CONFLICT (day, tenant, kind, name) DO UPDATE SET
    label = excluded.label,
    spent_nano_usd = s.spent_nano_usd + excluded.spent_nano_usd,
    spent_tokens = s.spent_tokens + excluded.spent_tokens
)
SELECT id, won FROM ended
"""
_WINNERS: Final = """
SELECT r.id FROM runs r JOIN unnest($1::uuid[], $2::uuid[]) AS g (id, process_id) USING (id, process_id)
WHERE r.ended_by = r.process_id
"""

_CANCEL: Final = """
UPDATE runs SET status = 4, ended_at = now(), ended_by = $2, error = $3, cancelled_elsewhere = true
WHERE id = $1 AND status = 1 RETURNING true
"""
_CANCELLED: Final = "SELECT id FROM runs WHERE process_id = $1 AND cancelled_elsewhere"
# By the time too: what was sent before a connection broke may arrive late, when the run has been begun anew.
_WITHDRAW: Final = """
DELETE FROM runs r USING unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS g (id, process_id, created_at)
WHERE r.id = g.id AND r.process_id = g.process_id AND r.created_at = g.created_at AND r.status = 1
"""
_DISCARD: Final = """
DELETE FROM runs WHERE id IN (
  SELECT id FROM runs WHERE created_at < now() - make_interval(secs => $1) AND status <> 1
  ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
) RETURNING 1
"""
_SHOWN: Final = """id, tenant, run_id, agent_id, agent_name, agent_version, task, workflow_id, input,
created_at, status, ended_at, answer, output, error, degradation, usage"""


# In the place of what is known of a run that is there no more.
_GONE: Final = object()


@dataclass(frozen=True, slots=True)
class _End:
    """What ends a run, in the order of the statement's columns."""

    row: tuple[Any, ...]
    bookings: Sequence[Booking]


class RunStore:
    """Runs of all processes. What comes at the same time is committed together."""

    def __init__(self, database: Store) -> None:
        self._database = database
        self._accepts = Line(database)
        self._ends = Line(database)
        # Two groups, so that a run that ends never waits for those that begin.
        self._accepting = GroupCommit(self._accepts.statement, _accept, max_items=500)
        self._ending = GroupCommit(self._ends.statement, _end, max_items=200)

    async def accept(self, run: NewRun, process_id: UUID) -> Accepted:
        """Records a run as under way in a process; durable when it returns.

        Raises InvalidArgument for a run_id that cannot be kept, AlreadyExists for one that came with another
        request, and Unavailable: it is not known then whether the run is recorded, see `withdraw`.
        """
        if "\0" in run.run_id:
            raise InvalidArgument(
                "run_id holds a character that it must not",
                reason=ERROR_REASON_INVALID_FIELD,
                violations=(FieldViolation("run_id", "must not hold the character of number zero"),),
            )
        known: Any = _GONE
        while known is _GONE:
            [known] = await self._accepting.add([(run, process_id)])
        if known is None:
            return Accepted(fresh=True)
        if known["tenant"] != run.tenant or known["request_hash"] != run.request_hash:
            raise conflict(run.run_id)
        return Accepted(fresh=False, status=known["status"])

    async def knows(self, tenant: str, run_id: str, request_hash: bytes) -> bool:
        """Whether this was asked for before. Raises AlreadyExists if something else was; Unavailable."""
        for row in await self._run(_KNOWN, [key_of(tenant, run_id)]):
            if row["tenant"] != tenant or row["request_hash"] != request_hash:
                raise conflict(run_id)
            return True
        return False

    async def end(self, ended: Ended) -> bool:
        """Records how a run ended; durable when it returns. False if it had ended before, or is not there.

        The same again gives the same. Raises Unavailable.
        """
        row = (
            ended.id, ended.process_id, ended.status, ended.ended_at, bounds.kept_text(ended.answer),
            ended.output, ended.response, ended.error, ended.degradation, ended.usage,
            bounds.kept_steps(ended.steps), ended.told,
        )  # fmt: skip
        [won] = await self._ending.add([_End(row, ended.bookings)])
        return won

    async def withdraw(self, runs: Mapping[UUID, tuple[UUID, datetime]]) -> None:
        """Takes back runs that nobody was told of: id to process and `created_at`. Raises Unavailable."""
        processes, times = [one[0] for one in runs.values()], [one[1] for one in runs.values()]
        await self._run(_WITHDRAW, list(runs), processes, times)

    async def cancel(self, tenant: str, run_id: str, process_id: UUID) -> bool:
        """Ends a run, whosever it is, as cancelled by this process; False if it has ended or is not there.

        Its own process hears of it from `cancelled_elsewhere`. Raises Unavailable.
        """
        error = error_bytes(cancelled(run_id))
        return bool(await self._run(_CANCEL, key_of(tenant, run_id), process_id, error))

    async def cancelled_elsewhere(self, process_id: UUID) -> list[UUID]:
        """Runs of a process that were cancelled by others. Raises Unavailable."""
        return [row["id"] for row in await self._run(_CANCELLED, process_id)]

    async def get(self, tenant: str, run_id: str) -> pb.Run | None:
        """A run with its steps. Raises Unavailable."""
        stored = await self.read(key_of(tenant, run_id), tenant)
        return None if stored is None else stored.run

    async def read(self, one: UUID, tenant: str) -> StoredRun | None:
        """All that is kept of a tenant's run. Raises Unavailable."""
        sql = f"SELECT {_SHOWN}, response, steps, told FROM runs WHERE id = $1 AND tenant = $2"
        for row in await self._run(sql, one, tenant):
            return _stored(row)
        return None

    async def status(self, one: UUID) -> pb.RunStatus.ValueType | None:
        """How far a run is; None if there is none. Raises Unavailable."""
        for row in await self._run("SELECT status FROM runs WHERE id = $1", one):
            status: pb.RunStatus.ValueType = row["status"]
            return status
        return None

    async def page(
        self, tenant: str, wanted: RunFilter, size: int, before: Place | None = None
    ) -> list[tuple[Place, pb.Run]]:
        """Runs newest first, without steps, each with the place behind it. Raises Unavailable."""
        rules: list[str] = ["tenant = $1"]
        values: list[Any] = [tenant]
        _add(rules, values, "status = ANY(${}::smallint[])", list(wanted.statuses) or None)
        _add(rules, values, "created_at >= ${}", wanted.start)
        _add(rules, values, "created_at < ${}", wanted.end)
        if before is not None:
            values += [before.at, before.id]
            rules.append(f"(created_at, id) < (${len(values) - 1}, ${len(values)})")
        values.append(size)
        newest = f"ORDER BY created_at DESC, id DESC LIMIT ${len(values)}"
        sql = f"SELECT {_SHOWN} FROM runs WHERE {' AND '.join(rules)}"
        if wanted.agent:
            # Each by an index of its own that has the order, too: with OR all of the tenant's runs are read.
            values.append(wanted.agent)
            place = f"${len(values)}"
            by_id = f"{sql} AND agent_id = {place} {newest}"
            by_name = f"{sql} AND agent_name = {place} AND agent_id <> {place} {newest}"
            sql = f"SELECT * FROM (({by_id}) UNION ALL ({by_name})) AS runs"
        sql = f"{sql} {newest}"
        found = await self._run(sql, *values)
        return [(Place(row["created_at"], row["id"]), _run_of(row)) for row in found]

    async def discard(self, days: float, most: int) -> int:
        """Deletes up to `most` runs that were accepted longer ago; how many went. Raises Unavailable."""
        return len(await self._run(_DISCARD, days * 86_400, most))

    async def close(self) -> None:
        """Waits for what is being written and gives the connections back."""
        await asyncio.gather(self._accepting.close(), self._ending.close())
        await asyncio.gather(self._accepts.close(), self._ends.close())

    async def _run(self, sql: str, *values: Any) -> list[Any]:
        try:
            found: list[Any] = await self._database.pool.fetch(sql, *values)
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise
        return found


async def _accept(connection: asyncpg.Connection, items: Sequence[tuple[NewRun, UUID]]) -> list[Any]:
    """For each item None if it is new, else what is known of it: _GONE if that was taken back meanwhile."""
    columns: list[list[Any]] = [[] for _ in range(13)]
    for run, process_id in items:
        row = (
            run.id, run.tenant, run.run_id, run.key, run.agent_id, run.agent_name, run.agent_version,
            run.task, run.workflow_id, run.request_hash, run.input, process_id, run.created_at,
        )  # fmt: skip
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    ids = columns[0]
    made = {row["id"] for row in await connection.fetch(_ACCEPT, *columns)}
    if len(made) == len(items):
        return [None] * len(items)
    known = {row["id"]: row for row in await connection.fetch(_KNOWN, ids)}
    first = {one: place for place, one in reversed(list(enumerate(ids)))}
    return [
        None if one in made and first[one] == place else known.get(one, _GONE)
        for place, one in enumerate(ids)
    ]


async def _end(connection: asyncpg.Connection, items: Sequence[_End]) -> list[bool]:
    columns = [list(column) for column in zip(*(one.row for one in items), strict=True)]
    ids = columns[0]
    found = await connection.fetch(_END, *columns, *_bookings(items))
    won = {row["id"]: bool(row["won"]) for row in found}
    again = [one for one in ids if one not in won]
    if again:
        # What was sent before and is known to be kept only now, or ended by another long ago.
        enders = dict(zip(ids, columns[1], strict=True))
        found = await connection.fetch(_WINNERS, again, [enders[one] for one in again])
        own = {row["id"] for row in found}
        won |= {one: one in own for one in again}
    return [won[one] for one in ids]


def _bookings(items: Sequence[_End]) -> list[list[Any]]:
    columns: list[list[Any]] = [[] for _ in range(7)]
    for ended in items:
        for one in ended.bookings:
            row = (ended.row[0], one.tenant, int(one.kind), one.name, one.label, one.nano_usd, one.tokens)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return columns


def _add(rules: list[str], values: list[Any], rule: str, value: object) -> None:
    if value is not None:
        values.append(value)
        rules.append(rule.format(len(values)))


def _stored(row: asyncpg.Record) -> StoredRun:
    run = _run_of(row)
    if row["steps"]:
        run.MergeFromString(row["steps"])
    return StoredRun(row["id"], row["tenant"], run, row["response"], row["told"] or b"")


def _run_of(row: asyncpg.Record) -> pb.Run:
    run = pb.Run(
        run_id=row["run_id"],
        agent_id=row["agent_id"],
        agent_name=row["agent_name"],
        agent_version=row["agent_version"],
        task=row["task"],
        status=row["status"],
        input=Struct.FromString(row["input"]),
        answer=row["answer"],
        workflow_id=row["workflow_id"],
    )
    run.created_at.FromDatetime(row["created_at"])
    if row["ended_at"] is not None:
        run.ended_at.FromDatetime(row["ended_at"])
    if row["output"] is not None:
        run.output.CopyFrom(Struct.FromString(row["output"]))
    if row["error"] is not None:
        run.error.CopyFrom(status_pb2.Status.FromString(row["error"]))
    if row["degradation"] is not None:
        run.degradation.CopyFrom(Degradation.FromString(row["degradation"]))
    if row["usage"] is not None:
        run.usage.CopyFrom(pb.Usage.FromString(row["usage"]))
    return run
