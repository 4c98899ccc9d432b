"""`python -m services.feedback`: one process of feedback; with `migrate`, its schema."""

import sys
from pathlib import Path

from services.mesh.importing import importing

if __name__ == "__main__":
    if sys.argv[1:2] == ["migrate"]:
        from services.mesh.store.migrate_command import main as migrate

        sys.exit(migrate("feedback", Path(__file__).parent / "migrations", sys.argv[2:]))
    with importing():
        from services.feedback.server import main

    main()
