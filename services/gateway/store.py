"""SQL for API keys."""

from pathlib import Path
from typing import Final

import asyncpg

from services.gateway.keys import ApiKey
from services.gateway.limits import Rate
from services.mesh.store import Store, is_transient, unavailable

SCHEMA: Final = "gateway"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
# A request with a key not seen before waits for one look at the store; never long.
_LOOK_S: Final = 2.0

_ALL: Final = """
SELECT key_id, name, digest, rate_per_s, burst, tenant, created_at, revoked_at
FROM api_keys ORDER BY created_at, key_id
"""
_INSERT: Final = """
INSERT INTO api_keys (key_id, name, digest, rate_per_s, burst, tenant) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_REVOKE: Final = """
UPDATE api_keys SET revoked_at = now()
WHERE (key_id = $1 OR name = $1) AND revoked_at IS NULL RETURNING key_id
"""


class KeyStore:
    """The table of keys. Every method raises Unavailable while PostgreSQL is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def version(self) -> int:
        """Grows with every change."""
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

    async def add(self, key: ApiKey) -> bool:
        """Keeps a key; False if it was there before, also if it is revoked."""
        rate, burst = (key.rate.per_s, key.rate.burst) if key.rate is not None else (None, None)
        try:
            done: str = await self._store.pool.execute(
                _INSERT, key.key_id, key.name, key.digest, rate, burst, key.tenant
            )
        except Exception as error:
            raise _typed(error) from error
        return done.endswith(" 1")

    async def revoke(self, id_or_name: str) -> list[str]:
        """Revokes the keys with this id or name; ids of those that were valid until now."""
        try:
            rows = await self._store.pool.fetch(_REVOKE, id_or_name)
        except Exception as error:
            raise _typed(error) from error
        return [row["key_id"] for row in rows]


def _key(row: asyncpg.Record) -> ApiKey:
    rate = None
    if row["rate_per_s"] is not None and row["burst"] is not None:
        rate = Rate(row["rate_per_s"], row["burst"])
    return ApiKey(row["digest"], row["name"], rate, row["created_at"], row["revoked_at"], row["tenant"])


def _typed(error: Exception) -> Exception:
    return unavailable(error) if is_transient(error) else error
