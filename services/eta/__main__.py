"""`python -m services.eta`: one process of eta."""

from services.eta.server import main

if __name__ == "__main__":
    main()
