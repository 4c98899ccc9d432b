"""SQL for API keys and the audit log."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import asyncpg

from services.gateway.audit import Entry
from services.gateway.keys import ApiKey
from services.gateway.limits import Rate
from services.mesh.store import Store, is_transient, unavailable

SCHEMA: Final = "gateway"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
# A request with a key not seen before waits for one look at the store; never long.
_LOOK_S: Final = 2.0

_ALL: Final = """
SELECT key_id, name, digest, rate_per_s, burst, tenant, scopes, expires_at, under_way, created_at, revoked_at
FROM api_keys ORDER BY created_at, key_id
"""
_INSERT: Final = """
INSERT INTO api_keys (key_id, name, digest, rate_per_s, burst, tenant, scopes, expires_at, under_way)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING
"""
_REVOKE: Final = "UPDATE api_keys SET revoked_at = now() WHERE key_id = $1 AND revoked_at IS NULL"
# A key that ends sooner anyway does.
_END: Final = """
UPDATE api_keys SET expires_at = least(expires_at, $2) WHERE key_id = $1 AND revoked_at IS NULL
"""
_CHANGE: Final = """
UPDATE api_keys SET scopes = $2, rate_per_s = $3, burst = $4, expires_at = $5, under_way = $6
WHERE key_id = $1 AND revoked_at IS NULL
"""
_NOTE: Final = """
INSERT INTO audit_log (tenant, key_id, caller, action, subject, outcome, detail, request_id, times)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_NOTES: Final = """
SELECT at, tenant, key_id, caller, action, subject, outcome, detail, request_id, times
FROM audit_log WHERE $1::timestamptz IS NULL OR at >= $1 ORDER BY at DESC, audit_id DESC LIMIT $2
"""

Step = Callable[[asyncpg.Connection], Awaitable[str]]


class KeyStore:
    """The tables of keys and of what was done. Every method raises Unavailable while PostgreSQL is away.

    What changes keys takes the entry that says so: both are kept, or neither is.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def version(self) -> int:
        """Grows with every change of keys."""
        try:
            return int(
                await self._store.pool.fetchval("SELECT version FROM api_key_version", timeout=_LOOK_S)
            )
        except Exception as error:
            raise _typed(error) from error

    async def all(self) -> list[ApiKey]:
        """Every key, oldest first, revoked ones too."""
        try:
            rows = await self._store.pool.fetch(_ALL, timeout=_LOOK_S)
        except Exception as error:
            raise _typed(error) from error
        return [_key(row) for row in rows]

    async def add(self, key: ApiKey, entry: Entry) -> bool:
        """Keeps a key; False, and no entry, if it was there before, also if it is revoked."""
        return await self._done(lambda connection: connection.execute(_INSERT, *_values(key)), entry)

    async def revoke(self, key_id: str, entry: Entry) -> bool:
        """Whether the key was valid until now."""
        return await self._done(lambda connection: connection.execute(_REVOKE, key_id), entry)

    async def change(self, key: ApiKey, entry: Entry) -> bool:
        """Gives a key these scopes, limits and end, if it is not revoked."""
        key_id, _, _, rate, burst, _, scopes, expires_at, under_way = _values(key)
        changed = (key_id, scopes, rate, burst, expires_at, under_way)
        return await self._done(lambda connection: connection.execute(_CHANGE, *changed), entry)

    async def succeed(self, old: str, until: datetime, new: ApiKey, entry: Entry) -> bool:
        """Keeps a new key, and lets the old one end then; False if the old one is revoked."""

        async def both(connection: asyncpg.Connection) -> str:
            ended: str = await connection.execute(_END, old, until)
            if _changed(ended):
                await connection.execute(_INSERT, *_values(new))
            return ended

        return await self._done(both, entry)

    async def note(self, entry: Entry) -> None:
        """Adds to the audit log."""
        try:
            await self._store.pool.execute(_NOTE, *_noted(entry), timeout=_LOOK_S)
        except Exception as error:
            raise _typed(error) from error

    async def notes(self, since: datetime | None, limit: int) -> list[Entry]:
        """The newest entries of the audit log, newest first."""
        try:
            rows = await self._store.pool.fetch(_NOTES, since, limit)
        except Exception as error:
            raise _typed(error) from error
        return [Entry(**dict(row.items())) for row in rows]

    async def _done(self, step: Step, entry: Entry) -> bool:
        async with self._store.transaction() as connection:
            changed = _changed(await step(connection))
            if changed:
                await connection.execute(_NOTE, *_noted(entry))
        return changed


def _values(key: ApiKey) -> tuple[object, ...]:
    rate, burst = (key.rate.per_s, key.rate.burst) if key.rate is not None else (None, None)
    return (
        *(key.key_id, key.name, key.digest, rate, burst, key.tenant),
        *([*key.scopes], key.expires_at, key.under_way),
    )


def _noted(entry: Entry) -> tuple[object, ...]:
    return (
        *(entry.tenant, entry.key_id, entry.caller, entry.action, entry.subject),
        *(entry.outcome, entry.detail, entry.request_id, entry.times),
    )


def _changed(status: str) -> bool:
    return not status.endswith(" 0")


def _key(row: asyncpg.Record) -> ApiKey:
    rate = None
    if row["rate_per_s"] is not None and row["burst"] is not None:
        rate = Rate(row["rate_per_s"], row["burst"])
    return ApiKey(
        row["digest"],
        row["name"],
        rate,
        row["created_at"],
        row["revoked_at"],
        row["tenant"],
        tuple(row["scopes"]),
        row["expires_at"],
        row["under_way"],
    )


def _typed(error: Exception) -> Exception:
    return unavailable(error) if is_transient(error) else error
