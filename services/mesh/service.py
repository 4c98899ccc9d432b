"""What every service that serves gRPC is made of, around its own wiring."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from waymesh.feedback.v1.feedback_service_pb2 import RecordSignalsRequest
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from waymesh.feedback.v1.signal_pb2 import Signal

from services.mesh.client import ClientFactory
from services.mesh.events import EventBus, create_bus
from services.mesh.feedback.signals import SignalSender
from services.mesh.lifecycle import Lifecycle
from services.mesh.retry import RetryPolicy
from services.mesh.server import GRACE_S, GrpcServer
from services.mesh.settings import GrpcSettings
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry
from services.mesh.tls.live import LiveTls

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

S = TypeVar("S", bound=GrpcSettings)

_SIGNALS_S: Final = 5.0


class GrpcService(ABC, Generic[S]):
    """One process of a service; `server.port` is bound once `lifecycle` has started.

    What `open_store`, `open_bus` and `clients` give is closed when the service stops, last first. Feedback
    hears of health checks that fail and of breakers that open.
    """

    def __init__(
        self,
        name: str,
        settings: S,
        dsn: str,
        *,
        span_processors: "Sequence[SpanProcessor]" = (),
        grace_s: float = GRACE_S,
        finite_streams: Collection[str] = (),
        qualified: bool = False,
        as_they_are: Collection[str] = (),
    ) -> None:
        """What comes after `span_processors` is as GrpcServer has it."""
        self.name = name
        self.settings = settings
        self._dsn = dsn
        # The one place that makes the name: on every bus a group is called as it is in the cluster.
        self.group = f"{settings.kafka_group_id}.{name}"
        self.lifecycle = Lifecycle(name, drain_s=settings.drain_s)
        self.telemetry = Telemetry.create(name, settings, span_processors=span_processors)
        self.tls = LiveTls.of(settings, self.telemetry.registry)
        if self.tls is not None:
            self.lifecycle.background("certificates", self.tls.watch)
        self.server = GrpcServer(
            name,
            host=settings.bind_host,
            port=settings.port,
            admin_port=settings.admin_listen,
            telemetry=self.telemetry,
            max_message_mib=settings.max_message_mib,
            max_concurrent=settings.max_concurrent_rpcs,
            grace_s=grace_s,
            finite_streams=finite_streams,
            admin_host=settings.admin_bind,
            health_port=settings.health_port,
            tls=self.tls,
            further_peers=settings.allowed_peers,
            qualified=qualified,
            as_they_are=as_they_are,
        )
        self.lifecycle.on_stop(self.telemetry.shutdown)
        self._feedback: Any = None
        self.signals = SignalSender(name, self.record_signals)
        self.server.health.on_change(self.signals.check_changed)
        self.lifecycle.background("signals of the mesh", self.signals.run)
        self.lifecycle.background("outboxes", self.telemetry.outboxes.run)
        self.lifecycle.background("event loop lag", self.telemetry.loop_lag.run)
        self.lifecycle.on_start(self.wire)

    @abstractmethod
    async def wire(self) -> None:
        """Makes the service of its parts, adds its servicer and its background work; a start hook."""

    async def start(self) -> None:
        """Serves, in the caller's loop."""
        await self.lifecycle.start(self.server)

    async def stop(self) -> None:
        """The end of `start`."""
        await self.lifecycle.stop()

    async def open_store(self, migrations: Path) -> Store:
        """The service's schema; while it cannot be reached, the service is not well."""
        store = await Store.open(self._dsn, schema=self.name, migrations=migrations)
        self.lifecycle.on_stop(store.close)
        self.telemetry.watch_pool(store.pool)
        self.server.check("store", store.ping)
        return store

    async def open_bus(self, store: Store) -> EventBus:
        """The bus that the settings name."""
        bus = create_bus(self.settings, service=self.name, pool=store.pool, telemetry=self.telemetry)
        await bus.start()
        self.lifecycle.on_stop(bus.close)
        self.telemetry.outboxes.watch("events", bus.unsent)
        return bus

    def clients(self, retry: RetryPolicy | None = None) -> ClientFactory:
        """Stubs of other services."""
        factory = ClientFactory(
            self.name,
            telemetry=self.telemetry,
            retry=retry,
            max_message_mib=self.settings.max_message_mib,
            tls=self.tls,
        )
        factory.on_breaker_change(self.signals.breaker_changed)
        self.lifecycle.on_stop(factory.close)
        return factory

    async def record_signals(self, signals: Sequence[Signal]) -> None:
        """Gives signals of this process to feedback. Raises MeshErrors."""
        if self._feedback is None:
            self._feedback = self.clients().stub(FeedbackServiceStub, self.settings.feedback_target)
        await self._feedback.RecordSignals(RecordSignalsRequest(signals=signals), timeout=_SIGNALS_S)
