"""A connection of its own for work that is one statement each, and so a transaction without BEGIN and COMMIT.

A statement takes one round trip. A connection that is taken from the pool for each takes another one to be
cleaned when it goes back, which is more than a small statement costs.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg

from services.mesh.store import Store, is_transient, unavailable


class Line:
    """One connection of a store's pool, kept while it works; one block uses it at a time."""

    def __init__(self, database: Store) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._use = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def statement(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection. Raises Unavailable instead of what asyncpg says about a lost one."""
        try:
            async with self._use:
                if self._connection is not None and _is_lost(self._connection):
                    await self._give_back()
                if self._connection is None:
                    self._connection = await self._database.pool.acquire()
                try:
                    yield self._connection
                except BaseException:
                    # Whatever state it is in: the pool cleans it, or makes a new one.
                    await self._give_back()
                    raise
        except Exception as error:
            if is_transient(error):
                raise unavailable(error) from error
            raise

    async def close(self) -> None:
        """Gives the connection back once nobody uses it."""
        async with self._use:
            await self._give_back()

    async def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await self._database.pool.release(connection)


def _is_lost(connection: asyncpg.Connection) -> bool:
    """Whether it has ended. The pool takes back one that ends while it is held, which then tells nothing."""
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        return True
