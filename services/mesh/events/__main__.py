"""`python -m services.mesh.events migrate`: the schema of the event bus, which belongs to no one service."""

import sys

from services.mesh.events.postgres import MIGRATIONS, SCHEMA
from services.mesh.store.migrate_command import main

if __name__ == "__main__":
    if sys.argv[1:2] != ["migrate"]:
        sys.exit("usage: python -m services.mesh.events migrate [--check]")
    sys.exit(main(SCHEMA, MIGRATIONS, sys.argv[2:], named="bus"))
