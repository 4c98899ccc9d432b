"""`python -m services.eta`: one process of eta; with `migrate`, its schema."""

import sys
from pathlib import Path

from services.mesh.importing import importing

if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        from services.mesh.store.migrate_command import main as migrate

        sys.exit(migrate("eta", Path(__file__).parent / "migrations", sys.argv[2:]))
    with importing():
        from services.eta.server import main

    main()
