"""All SQL of alerts: the leader's side within its transaction, and what the RPCs ask."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import asyncpg
from waymesh.feedback.v1.alert_pb2 import Alert, AlertState
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal

from services.feedback.alerts import Condition, Facts, Holder, Phase
from services.feedback.store import Place
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
# Silences that ended are kept this long for whoever asks why nobody was told.
_KEEP_SILENCES: Final = timedelta(days=30)


class Position(NamedTuple):
    """How far signals were judged, by whom last, and the newest numbers of signals and of silences."""

    signal: int
    token: str
    last_signal: int
    last_silence: int


@dataclass(frozen=True, slots=True)
class Kept:
    """An alert as it is stored, itself with plain ids, and the key and the subject that it is kept by."""

    key: str
    subject: str
    alert: Alert
    published: bool


async def position(connection: asyncpg.Connection) -> Position:
    """Where judging stands. In one statement: a silence made before a signal is seen no later than it."""
    row = await connection.fetchrow(
        """
        SELECT signal, token,
               (SELECT last FROM heads WHERE kind = 'signal'), (SELECT last FROM heads WHERE kind = 'silence')
        FROM alert_position
        """
    )
    return Position(*row.values())


async def move(connection: asyncpg.Connection, signal: int, token: str, *, before: str) -> bool:
    """Signals up to this number have been judged; false if somebody was there since `before`."""
    moved = await connection.execute(
        "UPDATE alert_position SET signal = $1, token = $2 WHERE token = $3", signal, token, before
    )
    return bool(moved == "UPDATE 1")


async def signals(
    connection: asyncpg.Connection, after: int, upto: int, limit: int
) -> list[tuple[int, Signal]]:
    """Signals by number, oldest first, with qualified subjects."""
    rows = await connection.fetch(
        "SELECT number, subject, body FROM signals"
        " WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3",
        after,
        upto,
        limit,
    )
    found = []
    for number, subject, body in rows:
        signal = Signal.FromString(body)
        signal.subject = subject
        found.append((number, signal))
    return found


async def conditions(connection: asyncpg.Connection) -> dict[str, Condition]:
    """All conditions by key."""
    rows = await connection.fetch("SELECT * FROM alert_conditions")
    return {row["alert_key"]: _condition(row) for row in rows}


async def open_alerts(connection: asyncpg.Connection) -> dict[str, Kept]:
    """The alerts that go on, by key."""
    rows = await connection.fetch("SELECT alert_key, subject, body, published FROM alerts WHERE state = 1")
    return {key: Kept(key, subject, Alert.FromString(body), told) for key, subject, body, told in rows}


async def silences(connection: asyncpg.Connection, now: datetime) -> dict[str, datetime]:
    """Until when keys are quiet, of those that are."""
    rows = await connection.fetch("SELECT alert_key, until FROM silences WHERE until > $1", now)
    return {row["alert_key"]: row["until"] for row in rows}


async def write_conditions(connection: asyncpg.Connection, changed: Mapping[str, Condition | None]) -> None:
    """Stores conditions by key; None takes one away."""
    gone = [key for key, one in changed.items() if one is None]
    if gone:
        await connection.execute("DELETE FROM alert_conditions WHERE alert_key = ANY($1::text[])", gone)
    kept = [(key, one) for key, one in changed.items() if one is not None]
    if kept:
        await connection.execute(
            """
            INSERT INTO alert_conditions (alert_key, rule, source, subject, phase, since, state)
            SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[],
                                 $6::timestamptz[], $7::json[])
            ON CONFLICT (alert_key) DO UPDATE
            SET phase = excluded.phase, since = excluded.since, state = excluded.state
            """,
            [key for key, _ in kept],
            [one.rule for _, one in kept],
            [one.source for _, one in kept],
            [one.subject for _, one in kept],
            [int(one.phase) for _, one in kept],
            [one.since for _, one in kept],
            [_state(one) for _, one in kept],
        )


async def write_alerts(connection: asyncpg.Connection, changed: Sequence[Kept]) -> None:
    """Stores alerts, new ones and those that changed; of one key, in the order in which they were raised."""
    if not changed:
        return
    await connection.execute(
        """
        INSERT INTO alerts
          (alert_id, alert_key, rule, subject, state, raised_at, resolved_at, published, body)
        SELECT alert_id, alert_key, rule, subject, state, raised_at, resolved_at, published, body
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[],
                    $7::timestamptz[], $8::boolean[], $9::bytea[]) WITH ORDINALITY
          AS one (alert_id, alert_key, rule, subject, state, raised_at, resolved_at, published, body, place)
        ORDER BY place
        ON CONFLICT (alert_id) DO UPDATE
        SET state = excluded.state, resolved_at = excluded.resolved_at, published = excluded.published,
            body = excluded.body
        """,
        [one.alert.alert_id for one in changed],
        [one.key for one in changed],
        [one.alert.rule for one in changed],
        [one.subject for one in changed],
        [int(one.alert.state) for one in changed],
        [one.alert.raised_at.ToDatetime(UTC) for one in changed],
        [
            one.alert.resolved_at.ToDatetime(UTC) if one.alert.HasField("resolved_at") else None
            for one in changed
        ],
        [one.published for one in changed],
        [one.alert.SerializeToString(deterministic=True) for one in changed],
    )


async def discard(connection: asyncpg.Connection, before: datetime, limit: int) -> int:
    """Deletes alerts that were over before then, oldest first, at most `limit`; how many."""
    gone = await connection.execute(
        """
        DELETE FROM alerts WHERE alert_id IN (
          SELECT alert_id FROM alerts WHERE state = 2 AND raised_at < $1 AND resolved_at < $1
          ORDER BY raised_at, number LIMIT $2
        )
        """,
        before,
        limit,
    )
    return int(gone.removeprefix("DELETE "))


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """Which alerts; None or empty means all, of a tenant or of the mesh. `subject` is qualified."""

    tenant: str = DEFAULT_TENANT
    states: Sequence[AlertState.ValueType] = ()
    rule: str = ""
    subject: str = ""
    start: datetime | None = None
    end: datetime | None = None


async def newest(
    pool: asyncpg.Pool, wanted: AlertFilter, limit: int, before: Place | None, now: datetime
) -> list[tuple[Place, Alert]]:
    """Alerts that match, newest raised first, after the place where the last page ended.

    With qualified subjects; their keys are plain, but for the mesh.
    """
    of_mesh = wanted.tenant == MESH_TENANT
    where: list[str] = []
    values: list[Any] = [now]
    conditions_: list[tuple[str, Any]] = [
        ("a.state = ANY({}::smallint[])", [int(one) for one in wanted.states] or None),
        ("a.rule = {}", wanted.rule or None),
        ("a.subject = {}", wanted.subject or None),
        ("tenant_of(a.subject) = {}", None if wanted.subject or of_mesh else wanted.tenant),
        ("a.raised_at >= {}", wanted.start),
        ("a.raised_at < {}", wanted.end),
    ]
    for text, value in conditions_:
        if value is not None:
            values.append(value)
            where.append(text.format(f"${len(values)}"))
    if before is not None:
        values += [before.at, before.number]
        where.append(f"(a.raised_at, a.number) < (${len(values) - 1}, ${len(values)})")
    values.append(limit)
    rows = await pool.fetch(
        "SELECT a.raised_at, a.number, a.alert_key, a.subject, a.body, s.until FROM alerts a"
        " LEFT JOIN silences s ON s.alert_key = a.alert_key AND s.until > $1"
        f" {'WHERE ' + ' AND '.join(where) if where else ''}"
        f" ORDER BY a.raised_at DESC, a.number DESC LIMIT ${len(values)}",
        *values,
    )
    return [
        (Place(row["raised_at"], row["number"]), _shown(row, row["until"], of_mesh=of_mesh)) for row in rows
    ]


async def silence(
    connection: asyncpg.Connection,
    key: str,
    until: datetime | None,
    *,
    comment: str,
    author: str,
    now: datetime,
    of_mesh: bool = False,
) -> Alert | None:
    """Keeps a key quiet until then, or no longer (None); its newest alert. In the caller's transaction.

    `key` is that with the qualified subject.
    """
    # The number first: who waits for its row here sees all of the one before.
    await connection.execute("UPDATE heads SET last = last + 1 WHERE kind = 'silence'")
    await connection.execute("DELETE FROM silences WHERE until < $1", now - _KEEP_SILENCES)
    await connection.execute(
        """
        INSERT INTO silences (alert_key, until, comment, author, made_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (alert_key) DO UPDATE
        SET until = excluded.until, comment = excluded.comment, author = excluded.author,
            made_at = excluded.made_at
        """,
        key,
        until or now,
        comment,
        author,
        now,
    )
    row = await connection.fetchrow(
        "SELECT alert_key, subject, body FROM alerts WHERE alert_key = $1"
        " ORDER BY raised_at DESC, number DESC LIMIT 1",
        key,
    )
    return None if row is None else _shown(row, until, of_mesh=of_mesh)


def _shown(row: asyncpg.Record, until: datetime | None, *, of_mesh: bool) -> Alert:
    alert = Alert.FromString(row["body"])
    alert.subject = row["subject"]
    if of_mesh:
        alert.alert_key = row["alert_key"]
    if until is None:
        alert.ClearField("silenced_until")
    else:
        alert.silenced_until.FromDatetime(until)
    return alert


def _state(condition: Condition) -> str:
    facts = condition.facts
    return json.dumps(
        {
            "holders": {
                name: [_micros(one.at), one.active, _micros(one.heard)]
                for name, one in condition.holders.items()
            },
            "facts": {
                "severity": int(facts.severity),
                "message": facts.message,
                "value": facts.value,
                "threshold": facts.threshold,
                "labels": dict(facts.labels),
                "occurrences": facts.occurrences,
            },
        }
    )


def _condition(row: asyncpg.Record) -> Condition:
    state = json.loads(row["state"])
    facts = state["facts"]
    return Condition(
        rule=row["rule"],
        source=row["source"],
        subject=row["subject"],
        phase=Phase(row["phase"]),
        since=row["since"],
        holders={
            name: Holder(_time(at), active, _time(heard))
            for name, (at, active, heard) in state["holders"].items()
        },
        facts=Facts(**{**facts, "severity": Severity.ValueType(facts["severity"])}),
    )


def _micros(time: datetime) -> int:
    return (time - _EPOCH) // _MICROSECOND


def _time(micros: int) -> datetime:
    return _EPOCH + micros * _MICROSECOND
