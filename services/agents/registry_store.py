"""All SQL of the registry. What takes a connection is part of the caller's transaction."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import asyncpg
from waymesh.agent.v1.definition_pb2 import AgentSpec

from services.agents.registry import Stored, Version
from services.mesh.store import Store, is_transient, unavailable

# A look at the changes every fraction of a second must not wait for long.
_LOOK_S: Final = 2.0
# A page holds specs of so many bytes at most: what differs comes on top, and a message takes 64 MiB.
_PAGE_BYTES: Final = 4 * 1024 * 1024

_AGENT: Final = """
a.tenant, a.agent_id, a.first_name, a.built_in, a.version, v.spec, a.created_at, a.updated_at, a.deleted_at,
a.changed
"""
_NEWEST: Final = "agents a JOIN agent_versions v USING (tenant, agent_id, version)"
_VERSION: Final = "version, change, spec, changed_by, changed_at, reverted_to, capability_id, by_software"

# What lives goes before what is deleted, an identity before a name. Who reads looks past what he deleted at
# what is built in, as a run does; who changes means his own.
_FIND: Final = f"""
SELECT {_AGENT} FROM {_NEWEST}
WHERE (a.agent_id = $2 OR a.name = $2) AND (a.tenant = $1 OR a.built_in)
ORDER BY CASE WHEN $3 THEN a.tenant <> $1 END, a.deleted_at IS NOT NULL, a.tenant <> $1, a.agent_id <> $2,
  a.changed DESC
LIMIT 1
"""
_OWN: Final = f"SELECT {_AGENT} FROM {_NEWEST} WHERE a.tenant = $1 AND a.agent_id = $2"
_NAMED: Final = f"SELECT {_AGENT} FROM {_NEWEST} WHERE a.tenant = $1 AND a.name = $2 AND a.deleted_at IS NULL"
_LIST: Final = f"""
WITH page AS (
  (SELECT tenant, agent_id, name, built_in FROM agents
   WHERE tenant = $1 AND (deleted_at IS NULL OR $2) AND (name, built_in, agent_id) > ($3, $4, $5)
   ORDER BY name, built_in, agent_id LIMIT $6)
  UNION ALL
  (SELECT tenant, agent_id, name, built_in FROM agents
   WHERE built_in AND tenant <> $1 AND (name, built_in, agent_id) > ($3, $4, $5)
   ORDER BY name, built_in, agent_id LIMIT $6)
  ORDER BY name, built_in, agent_id LIMIT $6
), sized AS (
  SELECT {_AGENT}, a.name,
    sum(octet_length(v.spec)) OVER (ORDER BY a.name, a.built_in, a.agent_id) - octet_length(v.spec)
      AS bytes_before,
    count(*) OVER () AS found
  FROM {_NEWEST} JOIN page p USING (tenant, agent_id)
)
SELECT * FROM sized WHERE bytes_before < {_PAGE_BYTES} ORDER BY name, built_in, agent_id
"""
_VERSIONS: Final = f"""
WITH page AS (
  SELECT {_VERSION} FROM agent_versions
  WHERE tenant = $1 AND agent_id = $2 AND version < $3 ORDER BY version DESC LIMIT $4
), sized AS (
  SELECT *, sum(octet_length(spec)) OVER (ORDER BY version DESC) - octet_length(spec) AS bytes_before,
    count(*) OVER () AS found
  FROM page
)
SELECT * FROM sized WHERE bytes_before < {_PAGE_BYTES} ORDER BY version DESC
"""
_SAVE: Final = """
INSERT INTO agents AS a
  (tenant, agent_id, name, first_name, built_in, version, created_at, updated_at, deleted_at, changed)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (tenant, agent_id) DO UPDATE SET
  name = excluded.name, version = excluded.version, updated_at = excluded.updated_at,
  deleted_at = excluded.deleted_at, changed = excluded.changed
"""
_SAVE_VERSION: Final = """
INSERT INTO agent_versions (tenant, agent_id, version, change, reverted_to, capability_id, by_software,
  changed_by, changed_at, spec)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
"""


class Place(NamedTuple):
    """Where a page of agents ended; the first one begins after the least place."""

    name: str = ""
    built_in: bool = False
    agent_id: str = ""


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a change begins with: its number, and the time."""

    number: int
    at: datetime


async def begin(conn: asyncpg.Connection) -> Beginning:
    """Lets changes follow each other: no other begins until the transaction ends."""
    row = await conn.fetchrow("SELECT number, at FROM begin_change()")
    return Beginning(row["number"], row["at"])


async def find(
    conn: asyncpg.Connection | asyncpg.Pool, tenant: str, agent: str, *, own_first: bool = False
) -> Stored | None:
    """The agent of this identity or name that the tenant means: its own or a built-in one."""
    return _agent(await conn.fetchrow(_FIND, tenant, agent, own_first))


async def own(conn: asyncpg.Connection, tenant: str, agent_id: str) -> Stored | None:
    """The tenant's agent of this identity, deleted or not."""
    return _agent(await conn.fetchrow(_OWN, tenant, agent_id))


async def named(conn: asyncpg.Connection, tenant: str, name: str) -> Stored | None:
    """The tenant's living agent of this name."""
    return _agent(await conn.fetchrow(_NAMED, tenant, name))


async def created_as(conn: asyncpg.Connection, tenant: str, name: str) -> int:
    """How many agents of the tenant began with this name."""
    found: int = await conn.fetchval(
        "SELECT count(*) FROM agents WHERE tenant = $1 AND first_name = $2", tenant, name
    )
    return found


async def has_as_many(conn: asyncpg.Connection, tenant: str, count: int) -> bool:
    """Whether the tenant made at least so many agents that live; exact once a change has begun."""
    found = await conn.fetchval(
        "SELECT EXISTS (SELECT FROM agents"
        " WHERE tenant = $1 AND deleted_at IS NULL AND NOT built_in OFFSET $2)",
        tenant,
        count - 1,
    )
    return bool(found)


async def version(
    conn: asyncpg.Connection | asyncpg.Pool, tenant: str, agent_id: str, number: int
) -> Version | None:
    """One version of an agent; None if there is no such one."""
    row = await conn.fetchrow(
        f"SELECT {_VERSION} FROM agent_versions WHERE tenant = $1 AND agent_id = $2 AND version = $3",
        tenant,
        agent_id,
        number,
    )
    return None if row is None else _version(row)


async def by_software(conn: asyncpg.Connection, tenant: str, agent_id: str) -> list[Version]:
    """The versions that Waymesh itself made, oldest first."""
    rows = await conn.fetch(
        f"SELECT {_VERSION} FROM agent_versions WHERE tenant = $1 AND agent_id = $2 AND by_software"
        " ORDER BY version",
        tenant,
        agent_id,
    )
    return [_version(row) for row in rows]


async def save(conn: asyncpg.Connection, agent: Stored, made: Version) -> None:
    """Stores an agent as it is now, and the version that made it so. The change must have begun."""
    await conn.execute(
        _SAVE,
        agent.tenant,
        agent.agent_id,
        agent.spec.name,
        agent.first_name,
        agent.built_in,
        agent.version,
        agent.created_at,
        agent.updated_at,
        agent.deleted_at,
        agent.changed,
    )
    await conn.execute(
        _SAVE_VERSION,
        agent.tenant,
        agent.agent_id,
        made.version,
        made.change,
        made.reverted_to,
        made.capability_id,
        made.by_software,
        made.changed_by,
        made.changed_at,
        made.spec.SerializeToString(deterministic=True),
    )
    await conn.execute("UPDATE registry_head SET last = $1", agent.changed)


async def list_agents(
    pool: asyncpg.Pool, tenant: str, after: Place, limit: int, *, deleted: bool
) -> tuple[list[tuple[Place, Stored]], bool]:
    """Agents by name after a place, `limit` at most or what a message holds, and whether there are more."""
    rows = await pool.fetch(_LIST, tenant, deleted, *after, limit + 1)
    page = rows[:limit]
    agents = [(Place(row["name"], row["built_in"], row["agent_id"]), _stored(row)) for row in page]
    return agents, bool(rows) and rows[0]["found"] > len(page)


async def list_versions(
    pool: asyncpg.Pool, tenant: str, agent_id: str, below: int, limit: int
) -> tuple[list[tuple[Version, AgentSpec | None]], bool]:
    """Versions below a number, newest first, each with the spec of the one before it.

    `limit` at most, or what a message holds; and whether there are more.
    """
    rows = await pool.fetch(_VERSIONS, tenant, agent_id, below, limit + 1)
    more = bool(rows) and rows[0]["found"] > min(limit, len(rows))
    versions = [_version(row) for row in rows]
    # The last one read is only there for what it was before.
    kept = versions[:-1] if more and len(versions) > 1 else versions
    before: list[AgentSpec | None] = [one.spec for one in versions[1:]]
    return list(zip(kept, [*before, None], strict=False)), more


async def last_change(store: Store) -> int:
    """Number of the last change of any agent. Raises Unavailable."""
    try:
        found: int = await store.pool.fetchval("SELECT last FROM registry_head", timeout=_LOOK_S)
    except Exception as error:
        raise _typed(error) from error
    return found


async def changed_after(store: Store, number: int, limit: int) -> list[Stored]:
    """Agents whose last change has a higher number, in that order, deleted ones too. Raises Unavailable."""
    try:
        rows = await store.pool.fetch(
            f"SELECT {_AGENT} FROM {_NEWEST} WHERE a.changed > $1 ORDER BY a.changed LIMIT $2", number, limit
        )
    except Exception as error:
        raise _typed(error) from error
    return [_stored(row) for row in rows]


def _agent(row: Any) -> Stored | None:
    return None if row is None else _stored(row)


def _stored(row: Any) -> Stored:
    return Stored(
        row["tenant"],
        row["agent_id"],
        row["first_name"],
        row["built_in"],
        row["version"],
        AgentSpec.FromString(row["spec"]),
        row["created_at"],
        row["updated_at"],
        row["deleted_at"],
        row["changed"],
    )


def _version(row: Any) -> Version:
    return Version(
        version=row["version"],
        change=row["change"],
        spec=AgentSpec.FromString(row["spec"]),
        changed_by=row["changed_by"],
        changed_at=row["changed_at"],
        reverted_to=row["reverted_to"],
        capability_id=row["capability_id"],
        by_software=row["by_software"],
    )


def _typed(error: Exception) -> Exception:
    return unavailable(error) if is_transient(error) else error
