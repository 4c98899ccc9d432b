"""`waymesh migrate`: every schema up to date, before the services and beside them."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli import external_database
from services.cli.errors import CliError
from services.cli.migrate import command
from services.mesh.store import connect

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ["agents", "bus", "eta", "feedback", "gateway", "route"]


async def migrate(dsn: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from services.cli import main; main()", "migrate", *arguments),
        env={**os.environ, "DATABASE_URL": dsn, "WAYMESH_DATA_DIR": str(folder)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


async def asked(dsn: str, question: str) -> object:
    connection = await connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def test_check_tells_what_every_schema_lacks_and_changes_nothing(database: str, tmp_path: Path) -> None:
    code, out, err = await migrate(database, tmp_path, "--check")

    assert code == 1
    assert sorted(line.split()[0] for line in out.splitlines()) == SCHEMAS
    assert all(" lacks 0001_" in line for line in out.splitlines())
    assert err == "waymesh: the database lacks what is named above: run `waymesh migrate`\n"
    found = await asked(database, "SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information)'")
    assert found == 0


async def test_two_at_a_time_bring_every_schema_up_to_date_once(database: str, tmp_path: Path) -> None:
    first, second = await asyncio.gather(migrate(database, tmp_path), migrate(database, tmp_path))

    assert (first[0], second[0]) == (0, 0), (first, second)
    ran = [line for line in (first[1] + second[1]).splitlines() if " ran " in line]
    assert sorted(line.split()[0] for line in ran) == SCHEMAS
    assert (await migrate(database, tmp_path, "--check"))[0] == 0


async def test_what_files_and_database_disagree_about_is_one_line(database: str, tmp_path: Path) -> None:
    await migrate(database, tmp_path)
    await asked(database, "INSERT INTO eta.migrations VALUES ('service', 99, '0099_later.sql', 'x')")

    code, _, err = await migrate(database, tmp_path)

    assert code == 1
    assert err.startswith(
        "waymesh: eta: schema eta has migration 0099_later.sql, which this version does not know"
    )
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--check",)])
async def test_a_database_that_refuses_is_named_without_its_password(
    database: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    wrong = database.replace("/test_", "/no_such_").replace("://", "://somebody:canary-secret@", 1)
    wrong = wrong.replace("somebody:canary-secret@waymesh@", "somebody:canary-secret@")

    code, _, err = await migrate(wrong, tmp_path, *arguments)

    assert code == 1
    assert "canary-secret" not in err
    assert err.startswith("waymesh: ")
    assert err.count("\n") == 1


def test_check_says_soon_that_the_database_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(external_database, "_ABSENT_S", 0.0)
    monkeypatch.setenv("WAYMESH_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:word@127.0.0.1:1/none")
    result = CliRunner().invoke(command, ["--check"], standalone_mode=False)
    assert isinstance(result.exception, CliError)
    assert "cannot be reached (connection refused): start that server" in str(result.exception)
    assert "word" not in str(result.exception)
