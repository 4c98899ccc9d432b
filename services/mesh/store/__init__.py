"""PostgreSQL for the services: pool, migrations, group commit, the embedded server of `waymesh up`."""

from services.mesh.store.embedded import EmbeddedPostgres, EmbeddedPostgresError, running_dsn
from services.mesh.store.failures import is_transient, unavailable
from services.mesh.store.group_commit import GroupCommit
from services.mesh.store.migrations import MigrationError, Migrations, migrate, missing
from services.mesh.store.pool import Store, connect

__all__ = [
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "GroupCommit",
    "MigrationError",
    "Migrations",
    "Store",
    "connect",
    "is_transient",
    "migrate",
    "missing",
    "running_dsn",
    "unavailable",
]
