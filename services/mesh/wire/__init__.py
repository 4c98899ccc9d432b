"""Unary gRPC calls over HTTP/2 in the event loop's own thread, for callers that make very many of them."""
