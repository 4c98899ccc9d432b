"""Numbered SQL files, each run once, in order, in a transaction of its own."""

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

_log = logging.getLogger(__name__)

_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_SCHEMA: Final = re.compile(r"[a-z][a-z0-9_]*")
# First key of the advisory lock; the second is the schema's hash. Any constant that nobody else uses.
_LOCK: Final = 0x57A1

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {schema}.migrations (
  set text NOT NULL,
  number integer NOT NULL,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (set, number)
)
"""


class MigrationError(Exception):
    """The files and the database do not agree. The text is one line."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """A folder of files NNNN_name.sql, numbered from 1 without gaps, and the name of the set they are."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class _File:
    number: int
    name: str
    sql: str
    checksum: str


async def migrate(connection: asyncpg.Connection, schema: str, sets: Sequence[Migrations]) -> int:
    """Brings a schema up to date; how many files were run.

    Processes that start together wait for each other. Raises MigrationError if a file that was run has
    changed or gone, or if the database is ahead of the files.
    """
    plans = _plans(schema, sets)
    await connection.execute("SELECT pg_advisory_lock($1, hashtext($2))", _LOCK, schema)
    try:
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(_TABLE.format(schema=schema))
        done = 0
        for name, files in plans:
            done += await _run(connection, schema, name, files)
        return done
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1, hashtext($2))", _LOCK, schema)


async def missing(connection: asyncpg.Connection, schema: str, sets: Sequence[Migrations]) -> list[str]:
    """Names of the files that `migrate` would run, in their order. Changes nothing; raises MigrationError."""
    plans = _plans(schema, sets)
    if await connection.fetchval("SELECT to_regclass($1)", f"{schema}.migrations") is None:
        return [file.name for _, files in plans for file in files]
    return [file.name for name, files in plans for file in await _waiting(connection, schema, name, files)]


async def _run(connection: asyncpg.Connection, schema: str, name: str, files: Sequence[_File]) -> int:
    waiting = await _waiting(connection, schema, name, files)
    for file in waiting:
        async with connection.transaction():
            # The caller's search_path need not be this schema.
            await connection.execute(f"SET LOCAL search_path = {schema}")
            try:
                await connection.execute(file.sql)
            except asyncpg.PostgresError as error:
                raise MigrationError(f"migration {file.name} of schema {schema} failed: {error}") from error
            await connection.execute(
                f"INSERT INTO {schema}.migrations (set, number, name, checksum) VALUES ($1, $2, $3, $4)",
                name,
                file.number,
                file.name,
                file.checksum,
            )
        _log.info("schema %s: ran %s", schema, file.name)
    return len(waiting)


async def _waiting(
    connection: asyncpg.Connection, schema: str, name: str, files: Sequence[_File]
) -> Sequence[_File]:
    """Those that were not run yet. Raises MigrationError if what was run is not what the files say."""
    rows = await connection.fetch(
        f"SELECT number, name, checksum FROM {schema}.migrations WHERE set = $1 ORDER BY number", name
    )
    known = {file.number: file for file in files}
    for row in rows:
        file = known.get(row["number"])
        if file is None:
            raise MigrationError(
                f"schema {schema} has migration {row['name']}, which this version does not know; "
                "run a version at least as new as the one that made it"
            )
        if file.checksum != row["checksum"]:
            raise MigrationError(
                f"migration {file.name} of schema {schema} has changed since it was run; "
                "put it back and add a new file"
            )
    return files[len(rows) :]


def _plans(schema: str, sets: Sequence[Migrations]) -> list[tuple[str, list[_File]]]:
    if not _SCHEMA.fullmatch(schema):
        raise MigrationError(f"'{schema}' is no name for a schema: allowed are a-z, 0-9 and _")
    return [(one.name, _read(one.folder)) for one in sets]


def _read(folder: Path) -> list[_File]:
    files = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is no name for a migration: expected is NNNN_name.sql")
        sql = path.read_text(encoding="utf-8")
        files.append(_File(int(match[1]), path.name, sql, hashlib.sha256(sql.encode()).hexdigest()))
    numbers = [file.number for file in files]
    if numbers != list(range(1, len(files) + 1)):
        raise MigrationError(f"migrations in {folder.name} must be numbered from 0001 without gaps")
    return files
