"""`python -m services.agents`."""

from services.agents.server import main

main()
