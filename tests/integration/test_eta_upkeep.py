"""What eta remembers of the fixes it has processed is kept compact, and loses nothing by that."""

from collections.abc import AsyncIterator

import numpy as np
import pytest

from services.eta.server import MIGRATIONS
from services.eta.store import EtaStore
from services.mesh.store import Store

PARTITION = 3
ALL = "SELECT * FROM gps_seen ORDER BY seen_id"


@pytest.fixture
async def store(database: str) -> AsyncIterator[EtaStore]:
    opened = await Store.open(database, schema="eta", migrations=MIGRATIONS)
    yield EtaStore(opened)
    await opened.close()


async def saw(store: EtaStore, *ids: int, partition: int = PARTITION) -> None:
    """One batch, with ids and contents that tell each other apart."""
    async with store.transaction() as conn:
        seen = np.array(ids, dtype=np.uint64)
        await store.save_seen(conn, partition, seen, seen + np.uint64(10_000))


async def known(store: EtaStore) -> list[tuple[list[int], list[int]]]:
    async with store.transaction() as conn:
        return [(i.tolist(), c.tolist()) for i, c in await store.load_seen(conn, PARTITION)]


async def test_small_rows_become_one_that_has_all_of_theirs_in_order(store: EtaStore) -> None:
    for ids in ((7, 5), (6,), (1, 2)):
        await saw(store, *ids)
    await saw(store, 8, partition=PARTITION + 1)
    await store.merge_seen(PARTITION)
    assert await known(store) == [([7, 5, 6, 1, 2], [10_007, 10_005, 10_006, 10_001, 10_002])]


async def test_a_row_that_has_none_to_be_put_with_is_not_written_anew(store: EtaStore) -> None:
    await saw(store, *range(600))
    await saw(store, 1000, 1001)
    before = await store.pool.fetch(ALL)
    await store.merge_seen(PARTITION)
    assert await store.pool.fetch(ALL) == before
