"""Whose the rows of every table are: what says it, or why nothing has to.

A table of one tenant's things has a column `tenant`, or an id qualified with it (services/mesh/tenancy.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from services.mesh.tenancy import tenant_of

# The column that holds qualified ids: it tells whose a row is, and two tenants never mean the same row.
QUALIFIED: Final[Mapping[str, str]] = {
    "bus.log": "key",
    "eta.couriers": "driver_id",
    "eta.gps_reports": "event_id",
    "eta.outcome_outbox": "outcome_id",
    "eta.tracks": "order_id",
    "feedback.alert_conditions": "subject",
    "feedback.alerts": "subject",
    "feedback.deliveries": "id",
    "feedback.outcome_ids": "id",
    "feedback.outcomes": "id",
    "feedback.signals": "id",
    # `rule/`, the source of signals where there is one, and the qualified subject.
    "feedback.silences": "alert_key",
    "feedback.windows": "agent_name",
    "route.allocations": "order_id",
    "route.plans": "driver_id",
    "route.positions": "driver_id",
    "route.revisions": "id",
}

_FILES: Final = "which files of SQL were run"
_GROUPS: Final = "how far the groups of the mesh's own processes have read"
# What belongs to no tenant, and why.
OF_THE_MESH: Final[Mapping[str, str]] = {
    "agents.migrations": _FILES,
    "bus.migrations": _FILES,
    "eta.migrations": _FILES,
    "feedback.migrations": _FILES,
    "gateway.migrations": _FILES,
    "route.migrations": _FILES,
    "agents.processes": "which processes of agents are there",
    "agents.registry_head": "one number, in which all changes are ordered",
    "bus.groups": _GROUPS,
    "bus.heads": "the newest position of each partition",
    "bus.inbox": "digests of events, with the tenant in them",
    "bus.kafka_offsets": _GROUPS,
    "bus.kinds": "numbers of types of events",
    "bus.members": "which processes read",
    "bus.offsets": _GROUPS,
    "bus.partitions": "how the log is divided",
    "bus.replays": "ids that the mesh itself has given to dead letters, and when an operator sent them back",
    "bus.topics": "what topics there are",
    "eta.gps_partitions": "counters of all together, of which gps_counts says what is of other tenants",
    "eta.gps_seen": "hashes of qualified ids",
    "eta.learned": "what was learned of streets and models for all; merchants stand in it by qualified ids",
    "eta.prediction_head": "one number, in which all predictions are ordered",
    "feedback.alert_position": "how far signals were judged",
    "feedback.heads": "numbers in which all records are ordered",
    "feedback.outcomes_too_late": "numbers of outcomes, whose own rows say whose they are",
    "feedback.windows_position": "how far outcomes were counted",
    "gateway.api_key_version": "one number that counts changes of keys",
}


@dataclass(frozen=True)
class Column:
    """As PostgreSQL has it."""

    name: str
    type: str
    required: bool


Tables = Mapping[str, Sequence[Column]]
"""Columns by `schema.table`."""

_COLUMNS: Final = """
SELECT n.nspname || '.' || c.relname AS table, a.attname AS name, a.atttypid::regtype::text AS type,
  a.attnotnull AS required
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'm', 'f') AND NOT c.relispartition AND n.nspname !~ '^(pg_|information_schema$)'
ORDER BY 1, a.attnum
"""


async def tables(connection: asyncpg.Connection) -> dict[str, list[Column]]:
    """All of the database, a table and its partitions once."""
    found: dict[str, list[Column]] = {}
    for table, name, kind, required in await connection.fetch(_COLUMNS):
        columns = found.setdefault(table, [])
        if name is not None:
            columns.append(Column(name, kind, required))
    return found


def nobodys(found: Tables) -> list[str]:
    """What does not say whose its rows are but should, and what is said here of nothing: a line each."""
    faults = []
    for table, columns in found.items():
        if table in OF_THE_MESH:
            continue
        wanted = QUALIFIED.get(table, "tenant")
        if Column(wanted, "text", required=True) not in columns:
            faults.append(f"{table} has no column {wanted} of text that is NOT NULL")
    faults += [f"there is no table {table}" for table in {**QUALIFIED, **OF_THE_MESH} if table not in found]
    return faults


async def owners(connection: asyncpg.Connection) -> dict[str, set[str]]:
    """The tenants whose rows each table has, by what it says of them."""
    found = {}
    for table in await tables(connection):
        if table in OF_THE_MESH:
            continue
        column = QUALIFIED.get(table, "tenant")
        schema, _, name = table.partition(".")
        values = [
            row[0] for row in await connection.fetch(f'SELECT DISTINCT {column} FROM {schema}."{name}"')
        ]
        found[table] = {tenant_of(value) for value in values} if table in QUALIFIED else set(values)
    return found
