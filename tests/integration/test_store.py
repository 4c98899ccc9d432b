"""A service's schema: connections, migrations, and what failures look like."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from services.mesh.errors import Unavailable
from services.mesh.store import MigrationError, Store, connect, is_transient, unavailable

FIRST = "CREATE TABLE first (n int);"


def write(folder: Path, **files: str) -> Path:
    """Migrations by name, `_` for the dot of `.sql`."""
    folder.mkdir(exist_ok=True)
    for name, sql in files.items():
        (folder / f"{name.removeprefix('m')}.sql").write_text(sql)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "migrations", m0001_first=FIRST)


async def opened(database: str, folder: Path, schema: str = "shop") -> Store:
    return await Store.open(database, schema=schema, migrations=folder)


async def test_statements_run_in_the_services_own_schema(database: str, folder: Path) -> None:
    shop, bank = await opened(database, folder), await opened(database, folder, "bank")
    await shop.pool.execute("INSERT INTO first VALUES (1)")
    assert await bank.pool.fetchval("SELECT count(*) FROM first") == 0
    assert await bank.pool.fetchval("SELECT count(*) FROM shop.first") == 1
    await shop.close()
    await bank.close()


async def test_a_schema_holds_the_services_own_tables_and_nothing_else(database: str, folder: Path) -> None:
    store = await opened(database, folder)
    tables = await store.pool.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'shop' ORDER BY 1")
    assert [row["tablename"] for row in tables] == ["first", "migrations"]
    await store.close()


async def test_each_migration_runs_once_in_the_order_of_its_number(database: str, folder: Path) -> None:
    await (await opened(database, folder)).close()
    write(folder, m0002_second="ALTER TABLE first ADD COLUMN second int; INSERT INTO first VALUES (1, 2)")
    for _ in range(2):
        store = await opened(database, folder)
        assert await store.pool.fetchval("SELECT count(*) FROM first") == 1
        await store.close()


async def test_processes_that_start_together_run_each_migration_once(database: str, folder: Path) -> None:
    write(folder, m0002_slow="SELECT pg_sleep(0.1); INSERT INTO first VALUES (1)")
    stores = await asyncio.gather(*(opened(database, folder) for _ in range(4)))
    assert await stores[0].pool.fetchval("SELECT count(*) FROM first") == 1
    for store in stores:
        await store.close()


async def test_a_migration_that_was_run_must_not_change(database: str, folder: Path) -> None:
    await (await opened(database, folder)).close()
    write(folder, m0001_first=FIRST + " -- better")
    with pytest.raises(MigrationError, match=r"0001_first\.sql of schema shop has changed"):
        await opened(database, folder)


async def test_a_database_ahead_of_the_files_is_refused(database: str, folder: Path) -> None:
    write(folder, m0002_second="SELECT 1")
    await (await opened(database, folder)).close()
    (folder / "0002_second.sql").unlink()
    with pytest.raises(MigrationError, match=r"0002_second\.sql, which this version does not know"):
        await opened(database, folder)


async def test_a_migration_that_fails_leaves_nothing_of_itself(database: str, folder: Path) -> None:
    write(folder, m0002_broken="CREATE TABLE half (n int); SELECT 1/0")
    with pytest.raises(MigrationError, match="division by zero"):
        await opened(database, folder)
    write(folder, m0002_broken="CREATE TABLE half (n int)")
    store = await opened(database, folder)
    assert await store.pool.fetchval("SELECT count(*) FROM half") == 0
    await store.close()


@pytest.mark.parametrize("name", ["m0003_gap", "mtwo", "m0002_Upper"])
async def test_files_must_be_named_and_numbered_without_gaps(database: str, folder: Path, name: str) -> None:
    write(folder, **{name: "SELECT 1"})
    with pytest.raises(MigrationError, match=r"number|name"):
        await opened(database, folder)


async def test_opening_waits_for_a_server_that_is_not_there_yet(folder: Path, tmp_path: Path) -> None:
    dsn = f"postgresql://waymesh@/waymesh?host={tmp_path}"
    with pytest.raises(Unavailable, match="the store did not answer"):
        await Store.open(dsn, schema="shop", migrations=folder, connect_s=0.2)


async def test_a_wrong_database_is_told_at_once(database: str, folder: Path) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await opened(database.replace("/test_", "/wrong_"), folder)


async def test_a_transaction_that_raises_is_rolled_back(database: str, folder: Path) -> None:
    store = await opened(database, folder)

    async def fail() -> None:
        async with store.transaction() as connection:
            await connection.execute("INSERT INTO first VALUES (1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert await store.pool.fetchval("SELECT count(*) FROM first") == 0
    await store.close()


async def test_a_lost_connection_is_unavailable_and_the_next_one_works(database: str, folder: Path) -> None:
    store = await opened(database, folder)

    async def lose() -> None:
        async with store.transaction() as connection:
            pid = connection.get_server_pid()
            other = await connect(database)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await other.close()
            await connection.execute("SELECT 1")

    with pytest.raises(Unavailable) as caught:
        await lose()
    assert caught.value.reason_name == "STORE_UNAVAILABLE"
    assert caught.value.retry_after_s is not None
    await store.ping()
    await store.close()


async def test_two_transactions_in_each_others_way_are_transient(database: str, folder: Path) -> None:
    store = await opened(database, folder)
    await store.pool.execute("INSERT INTO first VALUES (1), (2)")
    both = asyncio.Barrier(2)

    async def change(one: int, other: int) -> None:
        async with store.transaction() as connection:
            await connection.execute("UPDATE first SET n = n WHERE n = $1", one)
            await both.wait()
            await connection.execute("UPDATE first SET n = n WHERE n = $1", other)

    outcomes = await asyncio.gather(change(1, 2), change(2, 1), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "Unavailable"]
    await store.close()


def test_what_a_statement_did_wrong_is_not_transient() -> None:
    assert not is_transient(asyncpg.UniqueViolationError("twice"))
    assert not is_transient(ZeroDivisionError())
    assert not is_transient(asyncio.CancelledError())
    assert is_transient(ConnectionRefusedError())
    assert "secret" not in unavailable(ConnectionRefusedError("secret")).message
