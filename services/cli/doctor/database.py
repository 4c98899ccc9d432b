"""What the database says of itself, and whether it is what the services need."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.cli.doctor.finding import Finding, State, fail, ok, skip, warn
from services.cli.doctor.scene import Scene
from services.cli.environment import SERVICE_NAMES
from services.cli.errors import CliError

if TYPE_CHECKING:
    import asyncpg

_CHECK: Final = "database"
_PATIENCE_S: Final = 8.0
_QUERY_S: Final = 5.0
_OLDEST_MAJOR: Final = 15
# What one replica of each of the five services takes at most: pools, and who listens.
_SERVICES_TAKE: Final = 40
_LONG_S: Final = 900
_SKEW_S: Final = (1.0, 30.0)
_BEHIND_BYTES: Final = 64 << 20

_ITSELF: Final = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
       pg_size_pretty(pg_database_size(current_database())) AS size,
       current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commits,
       current_setting('full_page_writes') AS pages
"""
_CONNECTIONS: Final = """
SELECT current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int AS most,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS used,
       (SELECT extract(epoch FROM max(now() - xact_start)) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid())::float AS longest_s
"""
_REPLICAS: Final = """
SELECT coalesce(application_name, '') AS name, state,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint AS behind
FROM pg_stat_replication ORDER BY 1
"""
_KEYS: Final = """
SELECT count(*) FILTER (WHERE revoked_at IS NULL AND coalesce(expires_at > now(), true))::int AS valid,
       count(*)::int AS known
FROM gateway.api_keys
"""


async def look(scene: Scene) -> list[Finding]:
    """Everything there is to know with one connection."""
    if scene.dsn is None:
        remedy = f"set DATABASE_URL to a PostgreSQL server, or run `waymesh up` on {scene.data_dir}"
        return [fail(_CHECK, "DATABASE_URL is not set and no mesh runs here", remedy)]
    from services.cli.external_database import ExternalDatabase
    from services.mesh.store import connect

    try:
        async with asyncio.timeout(_PATIENCE_S):
            await ExternalDatabase(scene.dsn, lambda _state, _words: None).check()
            connection = await connect(scene.dsn, timeout=_QUERY_S, command_timeout=_QUERY_S)
    except CliError as error:
        words, _, remedy = str(error).rpartition(": ")
        return [fail(_CHECK, words, remedy)]
    except TimeoutError:
        remedy = "look at that server, or let connections through to it (network policy, firewall)"
        return [fail(_CHECK, f"DATABASE_URL is not answered within {_PATIENCE_S:g} s", remedy)]
    try:
        schemas = await _schemas(connection)
        complete = schemas.state is State.OK
        return [
            *await _itself(connection),
            await _connections(connection),
            *await _replicas(connection),
            await _clock(connection),
            schemas,
            await _keys(connection) if complete else skip("keys", "the schemas are not as they should be"),
        ]
    finally:
        await connection.close(timeout=_QUERY_S)


async def _itself(connection: "asyncpg.Connection") -> list[Finding]:
    row = await connection.fetchrow(_ITSELF)
    assert row is not None
    words = f"PostgreSQL {row['version'].split()[0]}, {row['size']}"
    if row["number"] // 10_000 < _OLDEST_MAJOR:
        found = [warn(_CHECK, words, f"update it to {_OLDEST_MAJOR} or later: older ones are not tested")]
    else:
        found = [ok(_CHECK, words)]
    unsafe = {"fsync": row["fsync"], "synchronous_commit": row["commits"], "full_page_writes": row["pages"]}
    off = [name for name, value in unsafe.items() if value == "off"]
    if off:
        words = f"{', '.join(off)} off: what was acknowledged can be lost when the server dies"
        found.append(
            fail("durability", words, f"run ALTER SYSTEM RESET {off[0]}, and SELECT pg_reload_conf()")
        )
    return found


async def _connections(connection: "asyncpg.Connection") -> Finding:
    row = await connection.fetchrow(_CONNECTIONS)
    assert row is not None
    left = row["most"] - row["used"]
    words = f"{row['used']} of {row['most']} in use"
    check = "connections"
    if row["longest_s"] is not None and row["longest_s"] > _LONG_S:
        words += f"; a transaction is open for {row['longest_s'] / 60:.0f} min"
        return warn(check, words, "end it (pg_terminate_backend): it keeps PostgreSQL from cleaning up")
    if left < _SERVICES_TAKE // 4:
        return fail(check, f"{words}, {left} left", "raise max_connections, or put a pooler in front")
    if row["most"] < _SERVICES_TAKE:
        remedy = f"raise max_connections: one replica of each service takes up to {_SERVICES_TAKE}"
        return warn(check, words, remedy)
    return ok(check, words)


async def _replicas(connection: "asyncpg.Connection") -> list[Finding]:
    rows = await connection.fetch(_REPLICAS)
    found = []
    for row in rows:
        behind = row["behind"]
        words = f"replica {row['name'] or 'without a name'} is {row['state'] or 'not visible to this user'}"
        if behind is not None and behind > _BEHIND_BYTES:
            words += f", {behind >> 20} MiB behind"
            found.append(warn("replication", words, "look at that replica and the way to it"))
        else:
            found.append(ok("replication", words))
    return found


async def _clock(connection: "asyncpg.Connection") -> Finding:
    began = time.time()
    there = float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8"))
    ended = time.time()
    skew_s = max(began - there, there - ended, 0.0)
    words = f"{skew_s:.3f} s from the database's"
    little, much = _SKEW_S
    if skew_s < little:
        return ok("clock", words)
    remedy = "let both follow a time server (chrony, systemd-timesyncd)"
    return fail("clock", words, remedy) if skew_s > much else warn("clock", words, remedy)


async def _schemas(connection: "asyncpg.Connection") -> Finding:
    import services
    from services.mesh.events.postgres import MIGRATIONS, SCHEMA
    from services.mesh.store.migrations import MigrationError, Migrations, missing

    root = Path(next(iter(services.__path__)))
    plans = {name: Migrations("service", root / name / "migrations") for name in SERVICE_NAMES}
    plans[SCHEMA] = Migrations("bus", MIGRATIONS)
    lacking = []
    for schema, files in plans.items():
        try:
            waiting = await missing(connection, schema, [files])
        except MigrationError as error:
            return fail("schemas", str(error), "run the version of these commands that the services have")
        if waiting:
            lacking.append(
                f"{schema} lacks {waiting[0]}" + (f" and {len(waiting) - 1} more" if waiting[1:] else "")
            )
    if lacking:
        return fail("schemas", "; ".join(lacking), "run `waymesh migrate`")
    return ok("schemas", f"{len(plans)} up to date")


async def _keys(connection: "asyncpg.Connection") -> Finding:
    row: Any = await connection.fetchrow(_KEYS)
    if not row["valid"]:
        words = f"none of {row['known']} is valid" if row["known"] else "there is none"
        return warn("keys", words, "make one: `waymesh keys add NAME`")
    return ok("keys", f"{row['valid']} valid, {row['known'] - row['valid']} revoked or over")
