"""Which pages of other origins may call from a browser: none, unless the settings name them."""

from collections.abc import Sequence
from typing import Final

from services.gateway.exchange import Exchange, Headers

_MAX_AGE_S: Final = b"600"
_REQUEST_HEADERS: Final = b"content-type, last-event-id, x-api-key, x-request-id, traceparent, tracestate"
_EXPOSED: Final = b"x-request-id, retry-after"


class Cors:
    """`origins` such as https://app.example; `*` for any."""

    def __init__(self, origins: frozenset[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origin.encode("latin-1", "replace") for origin in origins)

    def allowed(self, exchange: Exchange) -> bool:
        """Whether the request's origin is one of them."""
        origin = exchange.headers.get(b"origin")
        return origin is not None and (self._any or origin in self._origins)

    def is_preflight(self, exchange: Exchange) -> bool:
        """Whether a browser asks if it may call."""
        return b"access-control-request-method" in exchange.headers and self.allowed(exchange)

    def preflight(self, methods: Sequence[str]) -> Headers:
        """What it may do."""
        return [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _MAX_AGE_S),
        ]

    def headers(self, exchange: Exchange) -> Headers:
        """For every answer to a request with an origin. Keys travel in a header of ours: no credentials."""
        if not self.allowed(exchange):
            return [] if self._any or not self._origins else [(b"vary", b"origin")]
        if self._any:
            return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", _EXPOSED)]
        return [
            (b"access-control-allow-origin", exchange.headers[b"origin"]),
            (b"access-control-expose-headers", _EXPOSED),
            (b"vary", b"origin"),
        ]
