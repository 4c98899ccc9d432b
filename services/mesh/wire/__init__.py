"""Unary gRPC calls over HTTP/2 in the event loop's own thread, for callers that make very many of them.

grpc.aio takes every step of a call through core's threads and a poller that wakes the loop, which costs the
gateway, with one short call per request, more than all else it does; for everybody else grpc.aio is right.
Codes, connections to all addresses in turn, waits between attempts, keepalive, flow control, deadlines and
cancellation are as in core, so retries, breakers and health need not know which of the two made a call.

TLS is asyncio's, with ALPN and the target's name checked; each connection is made with the certificates of
its moment.

What it does not do: no streams, no compression, no proxy of the environment, no `wait_for_ready`,
no service config, and no targets other than `host:port` and `dns:///host:port` (those go to grpc.aio).
Metadata that comes before the answer is not kept. What retries a call is the mesh's own chain; here only
what no handler has seen is made again.
"""
