"""Whether this gateway may be given requests, and what it knows of what lies behind it."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Final

import grpc
from prometheus_client import Gauge

from services.gateway import faults
from services.gateway.exchange import Answer, Exchange
from services.gateway.key_sync import KeySync
from services.mesh import json_codec
from services.mesh.client import ClientFactory

_WORDS: Final = {
    grpc.ChannelConnectivity.READY: "ok",
    grpc.ChannelConnectivity.IDLE: "idle",
    grpc.ChannelConnectivity.CONNECTING: "connecting",
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: "unreachable",
    grpc.ChannelConnectivity.SHUTDOWN: "closed",
}


class Status:
    """Starting, serving, draining.

    A service or store that is away is told, but does not make the gateway unfit: it answers for them, and
    others can be called.
    """

    def __init__(self, factory: ClientFactory, targets: Mapping[str, str], keys: KeySync) -> None:
        self._factory = factory
        self._targets = targets
        self._keys = keys
        self.started = False
        self.draining = False

    @property
    def serving(self) -> bool:
        """Whether requests are welcome now."""
        return self.started and not self.draining and self._keys.loaded.is_set()

    async def health(self, exchange: Exchange) -> Answer:
        """GET /health and /health/ready: 200 while serving, else 503, with what each check says."""
        return self._answer(exchange, self._checks())

    async def brief(self, exchange: Exchange) -> Answer:
        """The same without what lies behind, where there is an admin port to tell of that."""
        return self._answer(exchange, {})

    def _answer(self, exchange: Exchange, checks: dict[str, str]) -> Answer:
        report: dict[str, object] = {
            "status": self._word(),
            "service": exchange.service,
            "checks": checks,
        }
        if self.serving:
            return Answer(200, json_codec.dumps(report))
        error = faults.draining() if self.draining else faults.starting()
        duration_ms = round((time.monotonic() - exchange.began) * 1000, 3)
        told = faults.fields_of(
            error, request_id=exchange.request_id, duration_ms=duration_ms, service=exchange.service
        )
        return Answer(503, json_codec.dumps(report | told), headers=faults.headers_of(error, 503))

    async def live(self, exchange: Exchange) -> Answer:
        """GET /health/live: 200 as long as the loop turns."""
        return Answer(200, json_codec.dumps({"status": "ok", "service": exchange.service, "checks": {}}))

    def tell(self, health: Gauge) -> None:
        """`waymesh_health` of the keys and of each service, as of each scrape."""
        health.labels("keys").set_function(
            lambda: float(self._keys.loaded.is_set() and not self._keys.failure)
        )
        for owner, target in self._targets.items():
            health.labels(owner).set_function(partial(self._reaches, target))

    def _reaches(self, target: str) -> float:
        state = self._factory.channel(target).get_state(True)
        return float(state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE)

    def _word(self) -> str:
        if self.draining:
            return "draining"
        return "ok" if self.serving else "starting"

    def _checks(self) -> dict[str, str]:
        checks = {"keys": self._keys.failure or ("ok" if self._keys.loaded.is_set() else "not loaded yet")}
        for owner, target in self._targets.items():
            checks[owner] = _WORDS[self._factory.channel(target).get_state(True)]
        return checks
