"""`python -m services.gateway`: one process of the gateway; with `keys …` or `audit …`, its API keys; with
`migrate`, its schema.
"""

import sys

from services.mesh.importing import importing

if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        from services.gateway.store import MIGRATIONS, SCHEMA
        from services.mesh.store.migrate_command import main as migrate

        sys.exit(migrate(SCHEMA, MIGRATIONS, sys.argv[2:]))
    if len(sys.argv) > 1:
        from services.gateway.key_commands import main as keys

        sys.exit(keys(sys.argv[1:]))
    with importing():
        from services.gateway.server import main

    main()
