"""Links around a call to another service."""
