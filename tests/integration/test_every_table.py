"""Every table that the services keep says whose its rows are, or is known to hold nothing of a tenant's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stored_tables import OF_THE_MESH, QUALIFIED, nobodys, tables

from services.mesh.store import connect

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def migrated(module_database: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database with every schema, as an operator makes them."""
    subprocess.run(
        [sys.executable, "-c", "from services.cli import main; main()", "migrate"],
        env={
            **os.environ,
            "DATABASE_URL": module_database,
            "WAYMESH_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        },
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return module_database


async def judged(dsn: str, statement: str = "SELECT") -> list[str]:
    """What is found with the statement's effects, which are undone."""
    connection = await connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(statement)
            return nobodys(await tables(connection))
        finally:
            await transaction.rollback()
    finally:
        await connection.close()


async def test_every_table_says_whose_its_rows_are(migrated: str) -> None:
    assert await judged(migrated) == []


def test_no_table_is_both_a_tenants_and_the_meshs() -> None:
    assert QUALIFIED.keys() & OF_THE_MESH.keys() == set()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("CREATE TABLE route.notes (order_id text PRIMARY KEY, body bytea NOT NULL)", "route.notes has no "),
        ("CREATE TABLE eta.days (day date PRIMARY KEY, tenant text)", "eta.days has no column tenant "),
        ("CREATE TABLE eta.days (day date PRIMARY KEY, tenant integer NOT NULL)", "eta.days has no column "),
        ("CREATE TABLE gateway.nothing ()", "gateway.nothing has no column tenant "),
        (
            "CREATE SCHEMA billing; CREATE TABLE billing.bills (id text)",
            "billing.bills has no column tenant ",
        ),
        (
            "CREATE MATERIALIZED VIEW feedback.sums AS SELECT count(*) FROM feedback.outcomes",
            "feedback.sums ",
        ),
        ("ALTER TABLE agents.spending RENAME tenant TO owner", "agents.spending has no column tenant "),
        ("ALTER TABLE route.plans RENAME driver_id TO courier", "route.plans has no column driver_id "),
        ("DROP TABLE bus.replays", "there is no table bus.replays"),
    ],
)
async def test_one_that_does_not_is_found(migrated: str, statement: str, found: str) -> None:
    [fault] = await judged(migrated, statement)

    assert fault.startswith(found)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE route.notes (tenant text NOT NULL, note_id text, PRIMARY KEY (tenant, note_id))",
        "SELECT feedback.make_outcomes_of('2026-01-01')",
    ],
)
async def test_one_that_does_is_none_of_them(migrated: str, statement: str) -> None:
    assert await judged(migrated, f"SET LOCAL search_path = feedback; {statement}") == []
