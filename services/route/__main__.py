"""`python -m services.route`: one process of route."""

from services.route.server import main

if __name__ == "__main__":
    main()
