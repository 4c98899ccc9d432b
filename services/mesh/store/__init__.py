"""PostgreSQL for the services: pool, migrations, inbox, group commit, the embedded server of `waymesh up`."""

from services.mesh.store.embedded import EmbeddedPostgres, EmbeddedPostgresError, running_dsn
from services.mesh.store.failures import is_transient, unavailable
from services.mesh.store.group_commit import GroupCommit
from services.mesh.store.inbox import Admission, admit, prune
from services.mesh.store.migrations import MigrationError, Migrations, migrate
from services.mesh.store.pool import Store, connect

__all__ = [
    "Admission",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "GroupCommit",
    "MigrationError",
    "Migrations",
    "Store",
    "admit",
    "connect",
    "is_transient",
    "migrate",
    "prune",
    "running_dsn",
    "unavailable",
]
