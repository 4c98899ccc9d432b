"""What all listeners of one gateway share: who may call, how many at once, and what is counted."""

import logging
from typing import Final

from services.gateway import faults
from services.gateway.cors import Cors
from services.gateway.exchange import Exchange
from services.gateway.key_sync import KeySync
from services.gateway.keys import Client, KeyRing
from services.gateway.metrics import GatewayMetrics
from services.gateway.spans import Spans
from services.mesh.principal import set_current
from services.mesh.telemetry import Telemetry

# Of what a process takes at once, what a key may have that has no number of its own: were it all, one key's
# slow requests would have the process refuse everybody, and an edge before it take it for broken.
_KEY_SHARE: Final = 0.75

_log = logging.getLogger("services.gateway.requests")


class Edge:
    """`most` requests at most are under way, None: any number."""

    def __init__(
        self, telemetry: Telemetry, ring: KeyRing, keys: KeySync, cors: Cors, *, most: int | None = None
    ) -> None:
        self.telemetry = telemetry
        self.keys = keys
        self.cors = cors
        self.spans = Spans(telemetry)
        self.metrics = GatewayMetrics(telemetry)
        self.metrics.in_flight.set_function(lambda: self.in_flight)
        self.in_flight = 0
        self._ring = ring
        self._most = most
        self._most_of_a_key = None if most is None else max(1, int(most * _KEY_SHARE))

    def admit(self) -> None:
        """Raises Unavailable if there is too much to do already. The request itself is counted."""
        if self._most is not None and self.in_flight > self._most:
            raise faults.overloaded()

    def refused(self, listener: str, status: int) -> None:
        """Something was answered that never became a request: a head too large, or no HTTP at all."""
        self.metrics.answered(listener, "none", status, 0.0)
        _log.info(
            "refused before it was a request", extra={"fields": {"listener": listener, "status": status}}
        )

    async def authenticate(self, exchange: Exchange) -> Client:
        """All that is done from now on is done for who holds the key, whatever the request says besides.

        Raises Unauthenticated for a missing or wrong key, ResourceExhausted beyond the key's limits.
        """
        given = exchange.headers.get(b"x-api-key")
        if not given:
            raise faults.key_missing()
        client = self._ring.find(given) or await self.keys.find(given)
        if client is None:
            raise faults.key_invalid()
        wait_s = client.bucket.take()
        if wait_s > 0:
            raise faults.rate_limited(client.bucket.rate, wait_s)
        limit = client.key.under_way or self._most_of_a_key
        if limit is not None and client.usage.under_way >= limit:
            raise faults.too_many_under_way(limit)
        client.usage.under_way += 1
        exchange.client = client
        set_current(client.principal)
        return client

    def leave(self, exchange: Exchange) -> None:
        """The request is over."""
        if exchange.client is not None:
            exchange.client.usage.under_way -= 1
