"""Links around a handler."""
