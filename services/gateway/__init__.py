"""The HTTP edge: one request in, one RPC out."""
