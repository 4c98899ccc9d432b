"""`python -m services.NAME migrate [--check]`: one schema brought up to date, or told what it lacks.

Without the service itself: none of its code is loaded, no port is bound, and services may run meanwhile, also
such as migrate the same schema at their start.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import asyncpg

from services.mesh.redact import redact_setting
from services.mesh.settings import MeshSettings, SettingsError, load
from services.mesh.store.embedded import running_dsn
from services.mesh.store.failures import is_transient
from services.mesh.store.migrations import MigrationError, Migrations, migrate, missing
from services.mesh.store.pool import connect

LACKING: Final = 3
"""Exit code of `--check` where something is missing."""

_CHECK: Final = "--check"
# For a server that starts or fails over, in seconds.
_PATIENCE_S: Final = 60.0
_PAUSE_S: Final = 0.5


def main(schema: str, folder: Path, arguments: Sequence[str], *, named: str = "service") -> int:
    """Runs it; the exit code. What was done is one line on stdout, an error one line on stderr.

    `folder` holds the migrations of the set `named`.
    """
    if [word for word in arguments if word != _CHECK]:
        return _fail(f"migrate takes nothing but {_CHECK}")
    logging.disable(logging.WARNING)  # what was run is said at the end
    try:
        settings = load(MeshSettings)
        dsn = settings.database_url or running_dsn(settings.data_dir)
        if dsn is None:
            return _fail(
                f"there is no database: set DATABASE_URL, or run `waymesh up` on {settings.data_dir} first"
            )
        return asyncio.run(_run(dsn, schema, Migrations(named, folder), check=_CHECK in arguments))
    except (SettingsError, MigrationError) as error:
        return _fail(str(error))
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        shown = redact_setting("DATABASE_URL", dsn or "")
        return _fail(f"the database at {shown} refuses: {error or type(error).__name__}")


async def _run(dsn: str, schema: str, files: Migrations, *, check: bool) -> int:
    connection = await _connected(dsn)
    try:
        lacking = await missing(connection, schema, [files])
        if check:
            _say(schema, f"lacks {', '.join(lacking)}" if lacking else "up to date")
            return LACKING if lacking else 0
        # What another process runs meanwhile is not run again, nor said to have been run here.
        done = await migrate(connection, schema, [files])
        ran = lacking[len(lacking) - done :] if done else []
        _say(schema, f"ran {', '.join(ran)}" if ran else "up to date")
        return 0
    finally:
        await connection.close()


async def _connected(dsn: str) -> asyncpg.Connection:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return await connect(dsn, timeout=5)
        except Exception as error:
            if not is_transient(error) or time.monotonic() > until:
                raise
        await asyncio.sleep(_PAUSE_S)


def _say(schema: str, what: str) -> None:
    sys.stdout.write(f"{schema:<10} {what}\n")


def _fail(line: str) -> int:
    sys.stderr.write(f"{' '.join(line.split())}\n")
    return 1
