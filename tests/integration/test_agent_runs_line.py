"""A connection that is kept works again after the server has died under it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.agents.runs.line import Line
from services.agents.server import MIGRATIONS
from services.mesh.errors import Unavailable
from services.mesh.store import EmbeddedPostgres, Store
from tests.integration.postgres_death import killed


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    # Under /tmp: the server runs as another user, who cannot pass through pytest's folders.
    made = Path(tempfile.mkdtemp(prefix="waymesh-test-", dir="/tmp"))
    yield made
    await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)


async def test_a_line_is_there_again_once_its_server_is(folder: Path) -> None:
    first = EmbeddedPostgres(folder)
    dsn = await first.start()
    store = await Store.open(dsn, schema="agents", migrations=MIGRATIONS)
    line = Line(store)
    try:
        async with line.statement() as connection:
            assert await connection.fetchval("SELECT 1") == 1
        await killed(first)
        with pytest.raises(Unavailable):
            async with line.statement() as connection:
                await connection.fetchval("SELECT 1")
        await (second := EmbeddedPostgres(folder)).start()
        try:
            async with line.statement() as connection:
                assert await connection.fetchval("SELECT 2") == 2
            await line.close()
        finally:
            await store.close()
            await second.stop()
    finally:
        await store.close()
        await first.stop()
