"""`python -m services.feedback`."""

from services.feedback.server import main

main()
