"""What each listener serves."""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.docs import PAGE, PAGE_POLICY
from services.gateway.edge import Edge
from services.gateway.exchange import Answer, Exchange, Handler
from services.gateway.execute import Executor
from services.gateway.openapi import document
from services.gateway.rest.binding import Binding
from services.gateway.settings import GatewaySettings
from services.gateway.status import Status
from services.mesh import json_codec
from services.mesh.principal import Principal, set_current

# What the answers of a runtime say besides.
RUNTIMES: Final[Mapping[str, Mapping[str, str]]] = {
    "agent-demo": {},
    "agent-custom": {"theme": "neutral"},
}

# Where a result goes that is JSON already. Within a text no quote stands by itself.
_RESULT: Final = b'"result":'
_NO_RESULT: Final = b'"result":null'

Routes = Mapping[str, Mapping[str, Handler]]


def admin_routes(status: Status, edge: Edge) -> Routes:
    """Metrics, and health with all that it knows."""

    async def metrics(_exchange: Exchange) -> Answer:
        """GET /metrics."""
        return Answer(200, generate_latest(edge.telemetry.registry), CONTENT_TYPE_LATEST.encode())

    return {**_health_routes(status.health, status.live), "/metrics": {"GET": metrics}}


def _health_routes(health: Handler, live: Handler) -> Routes:
    return {"/health": {"GET": health}, "/health/live": {"GET": live}, "/health/ready": {"GET": health}}


class PublicRoutes:
    """Everything, on the public listener; tasks ask for a key."""

    def __init__(
        self,
        edge: Edge,
        executor: Executor,
        bindings: Sequence[Binding],
        status: Status,
        settings: GatewaySettings,
    ) -> None:
        self._edge = edge
        self._executor = executor
        self._bindings = bindings
        self._status = status
        self._settings = settings

    @property
    def routes(self) -> Routes:
        """The table of the listener; what an admin port tells, where there is one, this one does not."""
        own: Routes = {
            "/execute": {"POST": self.execute},
            "/run": {"POST": self.run},
            "/openapi.json": {"GET": self.openapi},
            "/docs": {"GET": self.docs},
        }
        if self._settings.admin is None:
            return {**own, **admin_routes(self._status, self._edge)}
        return {**own, **_health_routes(self._status.brief, self._status.live)}

    async def execute(self, exchange: Exchange) -> Answer:
        """POST /execute."""
        done = await self._task(exchange)
        if isinstance(done, Answer):
            return done
        answer, attempts = done
        return _success(exchange, answer, {"attempt": attempts})

    async def run(self, exchange: Exchange) -> Answer:
        """POST /run, with a key: as a runtime, but the task's owner answers."""
        done = await self._task(exchange)
        return done if isinstance(done, Answer) else _success(exchange, done[0], {})

    async def openapi(self, _exchange: Exchange) -> Answer:
        """GET /openapi.json."""
        return Answer(200, self._document)

    async def docs(self, _exchange: Exchange) -> Answer:
        """GET /docs."""
        return Answer(200, PAGE, b"text/html; charset=utf-8", [(b"content-security-policy", PAGE_POLICY)])

    @cached_property
    def _document(self) -> bytes:
        return json_codec.dumps(document(self._executor.tasks.values(), self._bindings, self._settings))

    async def _task(self, exchange: Exchange) -> tuple[dict[str, Any], int] | Answer:
        await self._edge.authenticate(exchange)
        self._edge.admit()
        return await self._executor.run(exchange, "")


class RuntimeRoutes:
    """The runtime contract: GET /health and POST /run, without a key, under the runtime's name."""

    def __init__(self, name: str, edge: Edge, executor: Executor, status: Status) -> None:
        self._name = name
        self._edge = edge
        self._executor = executor
        self._status = status
        self._more = RUNTIMES[name]
        self._principal = Principal(name=name)

    @property
    def routes(self) -> Routes:
        """The table of the listener."""
        return {"/health": {"GET": self._status.health}, "/run": {"POST": self.run}}

    async def run(self, exchange: Exchange) -> Answer:
        """POST /run."""
        self._edge.admit()
        set_current(self._principal)
        done = await self._executor.run(exchange, self._name)
        return done if isinstance(done, Answer) else _success(exchange, done[0], self._more)


def _success(exchange: Exchange, answer: dict[str, Any], more: Mapping[str, object]) -> Answer:
    result = answer["result"]
    body = {
        "request_id": exchange.request_id,
        "status": "success",
        "result": result if type(result) is dict else None,
        "duration_ms": round((time.monotonic() - exchange.began) * 1000, 3),
        "service": exchange.service,
        **more,
    }
    if "degraded" in answer:
        body["degraded"] = answer["degraded"]
    written = json_codec.dumps(body)
    if type(result) is bytes:
        before, _, after = written.partition(_NO_RESULT)
        written = b"".join((before, _RESULT, result, after))
    return Answer(200, written)
