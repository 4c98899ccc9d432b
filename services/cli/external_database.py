"""The PostgreSQL server that DATABASE_URL names: asked before anything is started on it."""

import asyncio
import os
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from services.cli.database import Changed
from services.cli.environment import SERVICE_NAMES
from services.cli.errors import CliError
from services.cli.runner import State
from services.mesh.redact import redact_setting

if TYPE_CHECKING:
    import asyncpg

_CONNECT_S: Final = 5.0
_PAUSE_S: Final = 0.25
# How long a server that is not there may take to appear, in seconds.
_ABSENT_S: Final = 5.0
# How long one that says of itself that it starts may take, in seconds: it may have a crash to recover from.
_STARTING_S: Final = 60.0
_ERRNO: Final = re.compile(r"\[Errno (\d+)\]")
# Those of the services, and of the event bus.
_SCHEMAS: Final = (*SERVICE_NAMES, "bus")

# May not create, of what it needs; the database itself comes first.
_DENIED: Final = """
SELECT current_user AS name, current_database() AS database,
       current_setting('transaction_read_only')::bool AS read_only,
       has_database_privilege(current_database(), 'CREATE') AS creates,
       (SELECT min(nspname) FROM pg_namespace
         WHERE nspname = ANY($1) AND NOT has_schema_privilege(oid, 'CREATE')) AS schema
"""


class ExternalDatabase:
    """Somebody else's server. `check` says what is wrong with it, in the words of the server."""

    pid: Final[int | None] = None

    def __init__(self, dsn: str, changed: Changed) -> None:
        self._dsn = dsn
        self._changed = changed
        self._address = " ".join(redact_setting("DATABASE_URL", dsn).split())
        self._shown = f"DATABASE_URL is {self._address}"

    async def check(self) -> None:
        """Waits a little for a server that is just starting."""
        connection = await self._connect()
        try:
            await self._check_rights(connection, _SCHEMAS)
        finally:
            await connection.close(timeout=_CONNECT_S)
        self._changed(State.READY, self._address)

    async def reach(self) -> None:
        """The same, for those who change nothing: whatever its user may do there."""
        connection = await self._connect()
        await connection.close(timeout=_CONNECT_S)

    async def start(self) -> str:
        return self._dsn

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        return

    async def _connect(self) -> "asyncpg.Connection":
        import asyncpg  # late: the embedded server does without

        began, told = time.monotonic(), ""
        while True:
            try:
                return await asyncpg.connect(self._dsn, timeout=_CONNECT_S)
            except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
                patience_s, reason = _STARTING_S, said(error)
            except (OSError, asyncpg.PostgresConnectionError) as error:
                patience_s, reason = _ABSENT_S, said(error)
            except asyncpg.PostgresError as error:
                raise CliError(f"{self._shown}, which refuses ({said(error)}): {_remedy(error)}") from error
            except asyncpg.ClientConfigurationError as error:
                raise CliError(f"{self._shown}, which cannot be used ({error}): correct it") from error
            except (ValueError, OverflowError) as error:
                # Not in the driver's words: what it took for a port may be half of a password.
                raise CliError(
                    f"{self._shown}, which is no postgresql://user:password@host:port/database: correct it, "
                    "with % codes for characters that have a meaning there (%40 for @)"
                ) from error
            if time.monotonic() - began + _PAUSE_S > patience_s:
                raise CliError(
                    f"{self._shown}, which cannot be reached ({reason}): start that server, or correct it"
                )
            if reason != told:
                self._changed(State.STARTING, f"waiting for {self._address}: {reason}")
                told = reason
            await asyncio.sleep(_PAUSE_S)

    async def _check_rights(self, connection: "asyncpg.Connection", schemas: Sequence[str]) -> None:
        row = await connection.fetchrow(_DENIED, list(schemas))
        assert row is not None
        user = f'"{row["name"]}"'
        if row["read_only"]:
            raise CliError(f"{self._shown}, which takes no writes (is it a replica?): name the primary")
        if not row["creates"]:
            raise CliError(
                f"{self._shown}, where user {user} may not create schemas: "
                f'run GRANT CREATE ON DATABASE "{row["database"]}" TO {user} there, or name another user'
            )
        if row["schema"] is not None:
            raise CliError(
                f"{self._shown}, where schema {row['schema']} is not user {user}'s to create tables in: "
                "name the user that owns it, or another database"
            )


def said(error: Exception) -> str:
    """The driver's reason on one line, without numbers and class names of Python."""
    if isinstance(error, TimeoutError):
        return f"no answer within {_CONNECT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is not None and number > 0:
        return os.strerror(number).lower()
    numbers = set(_ERRNO.findall(str(error)))
    if isinstance(error, OSError) and len(numbers) == 1:  # of each address of a name
        return os.strerror(int(numbers.pop())).lower()
    words = getattr(error, "strerror", None) or str(error) or "the connection broke"
    return " ".join(str(words).split())


def _remedy(error: Exception) -> str:
    import asyncpg

    match error:
        case asyncpg.InvalidCatalogNameError():
            return "create that database, or name another"
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return "correct user and password, or let that user in (pg_hba.conf)"
        case _:
            return "correct it, or name another server"
