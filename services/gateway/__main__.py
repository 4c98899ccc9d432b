"""`python -m services.gateway`: one process of the gateway; with `keys …`, its API keys."""

import sys

if __name__ == "__main__":
    if len(sys.argv) > 1:
        from services.gateway.key_commands import main as keys

        sys.exit(keys(sys.argv[1:]))
    from services.gateway.server import main

    main()
