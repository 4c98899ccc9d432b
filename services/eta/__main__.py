"""`python -m services.eta`: one process of eta; with `migrate`, its schema."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        from services.mesh.store.migrate_command import main as migrate

        sys.exit(migrate("eta", Path(__file__).parent / "migrations", sys.argv[2:]))
    from services.eta.server import main

    main()
