"""Wiring of the gateway: settings → keys → tasks → listeners → lifecycle."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from waymesh.feedback.v1.feedback_service_pb2 import RecordSignalsRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.signal_pb2 import Signal

from services.gateway import rpcs, tasks
from services.gateway.app import App
from services.gateway.authority import Authority
from services.gateway.authorize import Authorize
from services.gateway.caller import callers, stream_callers
from services.gateway.cors import Cors
from services.gateway.edge import Edge
from services.gateway.execute import Executor
from services.gateway.handshakes import Handshakes
from services.gateway.key_sync import KeySync
from services.gateway.keys import KeyRing, Snapshot
from services.gateway.limits import Rate
from services.gateway.listener import HttpServer, Listener
from services.gateway.rest import binding
from services.gateway.rest.handler import RestRoutes
from services.gateway.rest.table import Table
from services.gateway.routes import RUNTIMES, PublicRoutes, RuntimeRoutes, admin_routes
from services.gateway.settings import GatewaySettings
from services.gateway.status import Status
from services.gateway.store import MIGRATIONS, SCHEMA, KeyStore
from services.mesh import logs
from services.mesh.client import ClientFactory
from services.mesh.feedback.signals import SignalSender
from services.mesh.health_port import AskedHealth, HealthPort
from services.mesh.hosts import is_loopback
from services.mesh.lifecycle import Lifecycle, run_process, settle
from services.mesh.settings import SettingsError, describe, load
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry
from services.mesh.tls.live import LiveTls

_log = logging.getLogger(__name__)

NAME: Final = "gateway"
# PostgreSQL may come later than the gateway; the keys known without it count until then. In seconds.
_CONNECT_S: Final = 3600.0
_SIGNALS_S: Final = 5.0


class Gateway:
    """One gateway, in pieces that tests may look at."""

    def __init__(self, settings: GatewaySettings, telemetry: Telemetry) -> None:
        self.settings = settings
        self.telemetry = telemetry
        self.tls = LiveTls.of(settings, telemetry.registry)
        self.factory = ClientFactory(
            NAME,
            telemetry=telemetry,
            timeout_s=None,
            max_message_mib=settings.max_message_mib,
            tls=self.tls,
        )
        self.signals = SignalSender(NAME, self._record_signals)
        self.factory.on_breaker_change(self.signals.breaker_changed)
        self.tasks = tasks.load()
        self._store: Store | None = None
        ring = KeyRing(Rate(settings.rate_per_s, settings.rate_burst), time.monotonic)
        snapshot = Snapshot(settings.data_dir / NAME / "keys.json")
        self.keys = KeySync(ring, snapshot, self._open_store if settings.database_url else None)
        edge = Edge(telemetry, ring, self.keys, Cors(settings.origins), most=settings.max_concurrent_rpcs)
        bindings = binding.load()
        targets = {
            owner: settings.target_of(owner)
            for owner in {*tasks.owners(self.tasks), *(each.owner for each in bindings)}
        }
        self.status = Status(self.factory, {o: t for o, t in targets.items() if t is not None}, self.keys)
        self.status.tell(telemetry.health)
        self.authority = Authority(lambda: self.keys.store, needed=settings.database_url is not None)
        executor = Executor(
            self.tasks,
            callers(self.factory, self.tasks, targets.get),
            stream_callers(self.factory, self.tasks, targets.get),
            self.authority,
            max_body_bytes=settings.max_body_bytes,
            timeout_ms=settings.timeout_ms,
        )
        self.http = HttpServer(
            max_head_bytes=settings.max_head_bytes,
            keep_alive_s=settings.keep_alive_s,
            max_connections=settings.max_connections,
            on_draining=self._draining,
            on_refused=edge.refused,
        )
        edge.metrics.connections.set_function(lambda: self.http.connections)
        routes = PublicRoutes(edge, executor, bindings, self.status, settings).routes
        table = Table(bindings, taken=routes)
        rest = RestRoutes(
            edge,
            self.authority,
            table,
            callers(self.factory, {each.path: each for each in bindings}, targets.get),
            max_body_bytes=settings.max_body_bytes,
            timeout_ms=settings.timeout_ms,
        )
        authorize = Authorize(edge, self.authority, rpcs.load())
        public = App(NAME, edge, routes, lambda exchange: authorize.find(exchange) or rest.find(exchange))
        handshakes = None
        if self.tls is not None:
            failed = edge.metrics.handshakes_failed.inc
            handshakes = Handshakes(self.tls, settings.allowed_peers, failed=failed)
        self.public = self.http.add(settings.bind_host, settings.port, public, handshakes)
        self.admin: Listener | None = None
        if settings.admin is not None:
            admin = App("admin", edge, admin_routes(self.status, edge))
            self.admin = self.http.add(settings.admin_bind, settings.admin, admin)
        self.health_port: HealthPort | None = None
        if settings.health_port is not None:
            asked = AskedHealth(lambda: self.status.serving)
            self.health_port = HealthPort(settings.admin_bind, settings.health_port, asked)
        ports = {"agent-demo": settings.agent_demo_port, "agent-custom": settings.agent_custom_port}
        self.runtimes: dict[str, Listener] = {}
        for name in RUNTIMES:
            runtime = RuntimeRoutes(name, edge, executor, self.status).routes
            app = App(name, edge, runtime, local=is_loopback(settings.runtime_host))
            self.runtimes[name] = self.http.add(settings.runtime_host, ports[name], app)

    def lifecycle(self) -> Lifecycle:
        """The process around it."""
        life = Lifecycle(NAME, drain_s=self.settings.drain_s)
        life.on_stop(self.telemetry.shutdown)
        life.on_stop(self._close_store)
        life.on_stop(self.authority.flush)
        life.on_stop(self.factory.close)
        life.on_start(self._begin)
        life.on_ready(self._ready)
        if self.health_port is not None:
            life.on_ready(self.health_port.start)
            life.on_stop(self.health_port.stop)
        if self.tls is not None:
            life.background("certificates", self.tls.watch)
        life.background("keys", self.keys.run)
        life.background("audit", self.authority.run)
        life.background("signals", self.signals.run)
        life.background("event loop lag", self.telemetry.loop_lag.run)
        return life

    async def start(self) -> Lifecycle:
        """Everything but the process, for tests: `stop` the lifecycle afterwards."""
        life = self.lifecycle()
        await life.start(cast(Any, self.http))
        return life

    async def _record_signals(self, signals: Sequence[Signal]) -> None:
        stub = self.factory.stub(FeedbackServiceStub, self.settings.feedback_target)
        await stub.RecordSignals(RecordSignalsRequest(signals=signals), timeout=_SIGNALS_S)

    async def _begin(self) -> None:
        key = self.settings.api_key
        self.keys.begin(None if key is None else key.get_secret_value())

    async def _ready(self) -> None:
        self.status.started = True

    def _draining(self) -> None:
        self.status.draining = True

    async def _open_store(self) -> KeyStore:
        assert self.settings.database_url is not None
        if self._store is None:
            self._store = await Store.open(
                self.settings.database_url,
                schema=SCHEMA,
                migrations=Path(MIGRATIONS),
                max_size=2,
                connect_s=_CONNECT_S,
                command_timeout_s=5.0,
            )
            self.telemetry.watch_pool(self._store.pool)
        return KeyStore(self._store)

    async def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            await store.close()


async def run(settings: GatewaySettings) -> int:
    """One process, until SIGTERM; its exit code."""
    telemetry = Telemetry.create(NAME, settings)
    gateway = Gateway(settings, telemetry)
    _log.info("%s starts", NAME, extra={"fields": {"settings": describe(settings)}})
    life = gateway.lifecycle()
    life.on_ready(settle)
    # Lifecycle asks of a server what HttpServer has: start, drain, stop.
    return await life.run(cast(Any, gateway.http))


def main() -> NoReturn:
    """`python -m services.gateway`."""
    try:
        settings = load(GatewaySettings)
    except SettingsError as error:
        sys.exit(f"{NAME}: {error}")
    logs.configure(NAME, settings.log_level)
    run_process(lambda: run(settings))
