"""A service's store: a pool of connections to its own schema, migrated when it is opened."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Self

import asyncpg

from services.mesh.store.failures import is_transient, unavailable
from services.mesh.store.migrations import Migrations, migrate

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class Store:
    """Connections whose search_path is the service's schema. `Store.open` makes one."""

    def __init__(self, pool: asyncpg.Pool, schema: str) -> None:
        self.pool = pool
        self.schema = schema

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        schema: str,
        migrations: Path,
        min_size: int = 1,
        max_size: int = 8,
        connect_s: float = 60.0,
        command_timeout_s: float = 60.0,
    ) -> Self:
        """Connects, waiting up to `connect_s` for a server that is not there yet, and runs the migrations.

        `migrations` is a folder of files NNNN_name.sql. Raises Unavailable when the server does not come,
        MigrationError when the files and the database do not agree, and asyncpg's own error when the server
        refuses us (password, database).
        """
        pool = await _first_connect(
            dsn,
            schema,
            connect_s=connect_s,
            min_size=min_size,
            max_size=max_size,
            command_timeout=command_timeout_s,
        )
        try:
            async with pool.acquire() as connection:
                await migrate(connection, schema, [Migrations("service", migrations)])
        except BaseException:
            await asyncio.shield(pool.close())
            raise
        return cls(pool, schema)

    async def close(self) -> None:
        """Waits for connections in use for a while, then ends them."""
        try:
            await asyncio.wait_for(self.pool.close(), 5.0)
        except TimeoutError:
            self.pool.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[asyncpg.Connection]:
        """A transaction on a connection of its own; committed if the block ends, rolled back if it raises.

        Raises Unavailable instead of what asyncpg says about a lost connection or a conflict.
        """
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                yield connection
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise

    async def ping(self) -> None:
        """One round trip, for a health check. Raises Unavailable."""
        try:
            await self.pool.execute("SELECT 1", timeout=5)
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise


async def connect(*args: Any, **kwargs: Any) -> asyncpg.Connection:
    """asyncpg.connect, where a Unix socket that is not there, or is full, refuses like any other."""
    try:
        return await asyncpg.connect(*args, **kwargs)
    except (FileNotFoundError, BlockingIOError) as error:
        raise ConnectionRefusedError(str(error)) from error


async def _first_connect(dsn: str, schema: str, *, connect_s: float, **options: Any) -> asyncpg.Pool:
    deadline = time.monotonic() + connect_s
    pause_s, told = _FIRST_PAUSE_S, False
    while True:
        try:
            return await asyncpg.create_pool(
                dsn,
                connect=connect,
                # Events and times are compared across processes: all sessions speak UTC.
                server_settings={"search_path": schema, "timezone": "UTC", "application_name": schema},
                **options,
            )
        except Exception as error:
            if not is_transient(error):
                raise
            if time.monotonic() + pause_s > deadline:
                raise unavailable(error) from error
            if not told:
                _log.warning("waiting for the store: %s", type(error).__name__)
                told = True
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
