"""SQL of eta, nothing else. Methods with a `conn` work inside the caller's transaction."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeAlias

import asyncpg
import numpy as np
from numpy.typing import NDArray

from services.eta.couriers import COURIER, NEVER
from services.eta.seen import Hashes
from services.eta.tracks import TRACK_FIELDS, Track
from services.mesh.outboxes import Waiting
from services.mesh.principal import DEFAULT_TENANT, MESH_TENANT
from services.mesh.store import Store

Connection: TypeAlias = asyncpg.Connection
# Counters of what the intake found, before any partition.
INTAKE: Final = -1
_FLAGS: Final = 6

_COURIER_COLUMNS: Final = COURIER.names or ()
_COURIER_TYPES: Final = [
    "bigint" if COURIER[name].kind == "i" else "double precision" for name in _COURIER_COLUMNS
]


def _sql_type(name: str) -> str:
    kind = str(Track.__dataclass_fields__[name].type)
    return {
        "<class 'str'>": "text",
        "<class 'int'>": "bigint",
        "<class 'float'>": "double precision",
        "<class 'bool'>": "boolean",
    }[kind]


def _upsert(table: str, key: str, columns: Sequence[str], types: Sequence[str], stamp: str) -> str:
    """One statement for many rows, given as one array per column. Rows must come in the order of the key."""
    arrays = ", ".join(f"${place}::{kind}[]" for place, kind in enumerate(types, 1))
    changes = ", ".join(f"{column} = excluded.{column}" for column in columns if column != key)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) "
        f"ON CONFLICT ({key}) DO UPDATE SET {changes}, {stamp} = now()"
    )


_SAVE_COURIERS: Final = _upsert(
    "couriers", "driver_id", ["driver_id", *_COURIER_COLUMNS], ["text", *_COURIER_TYPES], "heard_at"
)
_SAVE_TRACKS: Final = _upsert(
    "tracks",
    "order_id",
    [*TRACK_FIELDS, "partition"],
    [*(_sql_type(name) for name in TRACK_FIELDS), "integer"],
    "changed_at",
)
_LOAD_COURIERS: Final = (
    f"SELECT driver_id, {', '.join(_COURIER_COLUMNS)} FROM couriers WHERE driver_id = ANY($1)"
)
_LOAD_TRACKS: Final = f"SELECT {', '.join(TRACK_FIELDS)} FROM tracks WHERE order_id = ANY($1)"
_SAVE_PREDICTIONS: Final = """
WITH head AS (UPDATE prediction_head SET seq = seq + cardinality($1::text[]) RETURNING seq)
INSERT INTO predictions (seq, order_id, prediction)
SELECT head.seq - cardinality($1::text[]) + one.place, one.order_id, one.prediction
FROM head, unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS one (order_id, prediction, place)
"""
_COUNT_OF_TENANT: Final = """
INSERT INTO gps_counts AS c (partition, tenant, fixes, duplicates, conflicts, predictions, flags)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant, partition) DO UPDATE SET
    fixes = c.fixes + excluded.fixes, duplicates = c.duplicates + excluded.duplicates,
    conflicts = c.conflicts + excluded.conflicts, predictions = c.predictions + excluded.predictions,
    flags = ARRAY(
        SELECT a + b FROM unnest(c.flags, excluded.flags) WITH ORDINALITY AS n (a, b, place) ORDER BY place)
"""
_COUNT: Final = """
UPDATE gps_partitions SET token = $2, fixes = fixes + $3, duplicates = duplicates + $4,
    conflicts = conflicts + $5, predictions = predictions + $6,
    flags = ARRAY(
        SELECT a + b FROM unnest(flags, $7::bigint[]) WITH ORDINALITY AS n (a, b, place) ORDER BY place)
WHERE partition = $1
"""
_MERGE_SEEN: Final = """
WITH small AS (
    SELECT seen_id FROM gps_seen WHERE partition = $1 AND octet_length(ids) < 8 * 500
    ORDER BY seen_id LIMIT $2),
taken AS (
    DELETE FROM gps_seen WHERE seen_id IN (SELECT seen_id FROM small) AND (SELECT count(*) FROM small) > 1
    RETURNING *)
INSERT INTO gps_seen (partition, seen_at, ids, contents)
SELECT partition, max(seen_at),
    string_agg(ids, '' ORDER BY seen_id), string_agg(contents, '' ORDER BY seen_id)
FROM taken GROUP BY partition
"""
_FORGET_SEEN: Final = """
DELETE FROM gps_seen WHERE seen_at < now() - $1::interval OR seen_id IN (
    SELECT seen_id FROM (
        SELECT seen_id,
            sum(octet_length(ids) / 8) OVER (PARTITION BY partition ORDER BY seen_id DESC) AS newer
        FROM gps_seen) AS counted
    WHERE newer > $2)
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a batch adds to the counters of its partition."""

    fixes: int = 0
    duplicates: int = 0
    conflicts: int = 0
    predictions: int = 0
    flags: list[int] = field(default_factory=lambda: [0] * _FLAGS)


def sum_of(counts: Collection[Counts]) -> Counts:
    """All of them together."""
    return Counts(
        sum(one.fixes for one in counts),
        sum(one.duplicates for one in counts),
        sum(one.conflicts for one in counts),
        sum(one.predictions for one in counts),
        [sum(one.flags[place] for one in counts) for place in range(_FLAGS)],
    )


def _figures(counts: Counts) -> tuple[Any, ...]:
    return counts.fixes, counts.duplicates, counts.conflicts, counts.predictions, counts.flags


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """One row of the log of predictions; `prediction` holds plain ids."""

    seq: int
    order_id: str
    prediction: bytes


class EtaStore:
    """Everything eta keeps."""

    def __init__(self, store: Store) -> None:
        self.pool = store.pool
        self.transaction = store.transaction

    # Partitions of gps-events

    async def lock_partition(self, conn: Connection, partition: int) -> uuid.UUID:
        """The token of the partition's state. Until the transaction ends nobody else changes the
        partition.
        """
        query = "SELECT token FROM gps_partitions WHERE partition = $1 FOR UPDATE"
        token = await conn.fetchval(query, partition)
        if token is None:
            await conn.execute(
                "INSERT INTO gps_partitions (partition, token, flags) VALUES ($1, $2, $3) "
                "ON CONFLICT DO NOTHING",
                partition,
                uuid.uuid4(),
                [0] * _FLAGS,
            )
            token = await conn.fetchval(query, partition)
        return uuid.UUID(bytes=token.bytes)

    async def count(
        self, conn: Connection, partition: int, token: uuid.UUID, counts: Mapping[str, Counts]
    ) -> None:
        """Add to the counters, by tenant, and name the new state. The partition must be locked."""
        await conn.execute(_COUNT, partition, token, *_figures(sum_of(counts.values())))
        others = [
            (partition, tenant, *_figures(counts[tenant]))
            for tenant in sorted(counts)
            if tenant != DEFAULT_TENANT
        ]
        if others:
            await conn.executemany(_COUNT_OF_TENANT, others)

    async def totals(self, tenant: str) -> Counts:
        """All counters of a tenant, or of all of them for the mesh, as of one moment."""
        # Of the default tenant are those of the partitions without what is the others'.
        sign = -1 if tenant == DEFAULT_TENANT else 1
        rows = await self.pool.fetch(
            "SELECT 1 AS sign, fixes, duplicates, conflicts, predictions, flags FROM gps_partitions WHERE $2 "
            "UNION ALL SELECT $3, fixes, duplicates, conflicts, predictions, flags FROM gps_counts "
            "WHERE tenant = $1 OR $1 = $4",
            tenant,
            tenant in (DEFAULT_TENANT, MESH_TENANT),
            sign,
            DEFAULT_TENANT,
        )
        return Counts(
            fixes=sum(row["sign"] * row["fixes"] for row in rows),
            duplicates=sum(row["sign"] * row["duplicates"] for row in rows),
            conflicts=sum(row["sign"] * row["conflicts"] for row in rows),
            predictions=sum(row["sign"] * row["predictions"] for row in rows),
            flags=[sum(row["sign"] * row["flags"][place] for row in rows) for place in range(_FLAGS)],
        )

    async def load_seen(self, conn: Connection, partition: int) -> list[tuple[Hashes, Hashes]]:
        """Ids and contents of the fixes that were processed, oldest first."""
        rows = await conn.fetch(
            "SELECT ids, contents FROM gps_seen WHERE partition = $1 ORDER BY seen_id", partition
        )
        return [
            (np.frombuffer(row["ids"], dtype="<u8"), np.frombuffer(row["contents"], dtype="<u8"))
            for row in rows
        ]

    async def save_seen(self, conn: Connection, partition: int, ids: Hashes, contents: Hashes) -> None:
        await conn.execute(
            "INSERT INTO gps_seen (partition, ids, contents) VALUES ($1, $2, $3)",
            partition,
            ids.astype("<u8").tobytes(),
            contents.astype("<u8").tobytes(),
        )

    # Couriers and tracks

    async def load_couriers(
        self, conn: Connection | asyncpg.Pool, ids: Sequence[str]
    ) -> dict[str, tuple[Any, ...]]:
        """Rows of known couriers, in the order of COURIER."""
        rows = await conn.fetch(_LOAD_COURIERS, ids)
        return {row[0]: tuple(row)[1:] for row in rows}

    async def save_couriers(self, conn: Connection, ids: Sequence[str], rows: NDArray[np.void]) -> None:
        by_id = sorted(range(len(ids)), key=ids.__getitem__)
        ordered = rows[by_id]
        columns = [ordered[name].tolist() for name in _COURIER_COLUMNS]
        await conn.execute(_SAVE_COURIERS, [ids[place] for place in by_id], *columns)

    async def load_tracks(self, conn: Connection | asyncpg.Pool, ids: Sequence[str]) -> dict[str, Track]:
        rows = await conn.fetch(_LOAD_TRACKS, ids)
        return {row["order_id"]: Track(*row) for row in rows}

    async def save_tracks(self, conn: Connection, partition: int, tracks: Sequence[Track]) -> None:
        ordered = sorted(tracks, key=lambda track: track.order_id)
        columns = [[getattr(track, name) for track in ordered] for name in TRACK_FIELDS]
        await conn.execute(_SAVE_TRACKS, *columns, [partition] * len(ordered))

    async def due(self, order_ids: Sequence[str], delivered: Sequence[str]) -> dict[int, list[str]]:
        """Of these orders, those whose fixes wait for them or that are delivered without a fix that says so.

        They come by partition.
        """
        rows = await self.pool.fetch(
            "SELECT partition, array_agg(order_id) AS orders FROM tracks WHERE order_id = ANY($1) "
            "AND (awaiting OR delivered_us = $3 AND order_id = ANY($2)) GROUP BY partition",
            order_ids,
            delivered,
            NEVER,
        )
        return {row["partition"]: row["orders"] for row in rows}

    # Predictions

    async def save_predictions(
        self, conn: Connection, order_ids: Sequence[str], predictions: Sequence[bytes]
    ) -> None:
        """Append to the log. Others wait for the end of this transaction, so call late in it."""
        await conn.execute(_SAVE_PREDICTIONS, order_ids, predictions)

    async def predictions_of(self, conn: Connection, order_ids: Sequence[str]) -> dict[str, list[bytes]]:
        """All predictions of these orders, oldest first."""
        rows = await conn.fetch(
            "SELECT order_id, array_agg(prediction ORDER BY seq) AS predictions FROM predictions "
            "WHERE order_id = ANY($1) GROUP BY order_id",
            order_ids,
        )
        return {row["order_id"]: row["predictions"] for row in rows}

    async def newest_prediction(self) -> int:
        """Number of the newest prediction, 0 if there is none."""
        return int(await self.pool.fetchval("SELECT seq FROM prediction_head"))

    async def oldest_prediction(self) -> int:
        """Number of the oldest prediction still kept; one more than the newest if none is."""
        return int(
            await self.pool.fetchval(
                "SELECT coalesce((SELECT min(seq) FROM predictions), (SELECT seq + 1 FROM prediction_head))"
            )
        )

    async def predictions_after(
        self, seq: int, tenant: str, order_ids: Sequence[str] | None, limit: int
    ) -> list[StoredPrediction]:
        """The next predictions, of all orders of a tenant or of these; for the mesh, of all there are."""
        if order_ids is None and tenant != MESH_TENANT:
            rows = await self.pool.fetch(
                "SELECT seq, order_id, prediction FROM predictions WHERE tenant = $3 AND seq > $1 "
                "ORDER BY seq LIMIT $2",
                seq,
                limit,
                tenant,
            )
        elif order_ids is None:
            rows = await self.pool.fetch(
                "SELECT seq, order_id, prediction FROM predictions WHERE seq > $1 ORDER BY seq LIMIT $2",
                seq,
                limit,
            )
        else:
            rows = await self.pool.fetch(
                "SELECT seq, order_id, prediction FROM predictions WHERE seq > $1 AND order_id = ANY($3) "
                "ORDER BY seq LIMIT $2",
                seq,
                limit,
                order_ids,
            )
        return [StoredPrediction(*row) for row in rows]

    # Intake

    async def save_reports(
        self, conn: Connection, ids: Sequence[str], contents: Sequence[bytes]
    ) -> dict[str, bytes]:
        """Note reported fixes, each id once; gives the content of those that were there before."""
        new = await conn.fetch(
            "INSERT INTO gps_reports (event_id, content) SELECT * FROM unnest($1::text[], $2::bytea[]) "
            "ORDER BY 1 ON CONFLICT DO NOTHING RETURNING event_id",
            ids,
            contents,
        )
        fresh = {row["event_id"] for row in new}
        old = [one for one in ids if one not in fresh]
        if not old:
            return {}
        rows = await conn.fetch("SELECT event_id, content FROM gps_reports WHERE event_id = ANY($1)", old)
        return {row["event_id"]: row["content"] for row in rows}

    # Outcomes on their way to feedback

    async def queue_outcomes(self, conn: Connection, ids: Sequence[str], outcomes: Sequence[bytes]) -> None:
        await conn.execute(
            "INSERT INTO outcome_outbox (outcome_id, outcome) SELECT * FROM unnest($1::text[], $2::bytea[]) "
            "ON CONFLICT DO NOTHING",
            ids,
            outcomes,
        )

    async def queued_outcomes(self, limit: int) -> list[tuple[str, bytes]]:
        """Qualified ids and bytes with plain ids, oldest first."""
        rows = await self.pool.fetch(
            "SELECT outcome_id, outcome FROM outcome_outbox ORDER BY queued_at, outcome_id LIMIT $1", limit
        )
        return [(row["outcome_id"], row["outcome"]) for row in rows]

    async def waiting_outcomes(self) -> Waiting:
        """How many wait, and for how long the oldest has."""
        events, oldest_age_s = await self.pool.fetchrow(
            "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(queued_at)), 0)::float8 "
            "FROM outcome_outbox"
        )
        return Waiting(events, oldest_age_s)

    async def drop_outcomes(self, ids: Sequence[str]) -> None:
        await self.pool.execute("DELETE FROM outcome_outbox WHERE outcome_id = ANY($1)", ids)

    # What was learned

    async def load_learned(self, conn: Connection | asyncpg.Pool) -> tuple[str, Mapping[str, Any]] | None:
        """Page token and state, or None before anything was learned."""
        row = await conn.fetchrow("SELECT page_token, state FROM learned FOR UPDATE")
        return None if row is None else (row["page_token"], json.loads(row["state"]))

    async def save_learned(self, conn: Connection, page_token: str, state: Mapping[str, Any]) -> None:
        await conn.execute(
            "INSERT INTO learned (page_token, state) VALUES ($1, $2) "
            "ON CONFLICT (only_row) DO UPDATE SET page_token = $1, state = $2, learned_at = now()",
            page_token,
            json.dumps(state, separators=(",", ":")),
        )

    # Housekeeping

    async def forget(self, *, seen: timedelta, seen_fixes: int, predictions: timedelta) -> None:
        """Delete what is past its time."""
        await self.pool.execute(_FORGET_SEEN, seen, seen_fixes)
        await self.pool.execute("DELETE FROM gps_reports WHERE reported_at < now() - $1::interval", seen)
        await self.pool.execute("DELETE FROM predictions WHERE stored_at < now() - $1::interval", predictions)
        await self.pool.execute(
            "DELETE FROM tracks WHERE changed_at < now() - $1::interval", max(predictions, timedelta(days=7))
        )

    async def merge_seen(self, partition: int, rows: int = 5000) -> None:
        """Put many small rows of a partition together, so that taking it over stays quick.

        One alone is left as it is: it would be written anew at every turn for ever.
        """
        await self.pool.execute(_MERGE_SEEN, partition, rows)
