"""Wiring of route: settings → store → bus → engines → servicer → consumers → lifecycle. No logic."""

from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.route.v1 import route_service_pb2
from waymesh.route.v1.route_service_pb2_grpc import add_RouteServiceServicer_to_server

from services.mesh.client import ClientFactory
from services.mesh.events import create_bus
from services.mesh.feedback import FeedbackPipeline, create_dispatcher, recorded
from services.mesh.lifecycle import Lifecycle
from services.mesh.process import run_service
from services.mesh.retry import RetryPolicy
from services.mesh.server import GrpcServer
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry
from services.route.allocator import Allocator
from services.route.announce import ORDERS
from services.route.consumer import GPS_EVENTS, ORDER_COMMANDS, ChangeConsumer, CommandConsumer, FixConsumer
from services.route.eta_client import EtaClient
from services.route.housekeeping import Housekeeping
from services.route.planner import Planner
from services.route.reroute import Rerouter
from services.route.service import RouteServicer
from services.route.settings import RouteSettings
from services.route.tick import Ticker
from services.route.tick_task import TickTask
from services.route.workers import Workers

NAME: Final = "route"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Route:
    """One process's route; `server.port` is bound once `lifecycle` has started."""

    def __init__(self, settings: RouteSettings, dsn: str) -> None:
        self._settings = settings
        self._dsn = dsn
        self.lifecycle = Lifecycle(NAME, drain_s=settings.drain_s)
        self.telemetry = Telemetry.create(NAME, settings)
        self.server = GrpcServer(
            NAME,
            host=settings.bind_host,
            port=settings.port,
            admin_port=settings.admin_listen,
            telemetry=self.telemetry,
            max_message_mib=settings.max_message_mib,
            max_concurrent=settings.max_concurrent_rpcs,
        )
        self.lifecycle.on_stop(self.telemetry.shutdown)
        self.lifecycle.on_start(self._open)

    async def start(self) -> None:
        """Serve, in the caller's loop."""
        await self.lifecycle.start(self.server)

    async def stop(self) -> None:
        """The end of `start`."""
        await self.lifecycle.stop()

    async def _open(self) -> None:
        settings, lifecycle = self._settings, self.lifecycle
        database = await Store.open(self._dsn, schema=NAME, migrations=MIGRATIONS)
        lifecycle.on_stop(database.close)
        self.server.check("store", database.ping)
        clients = ClientFactory(NAME, telemetry=self.telemetry)
        lifecycle.on_stop(clients.close)
        pipeline = FeedbackPipeline.create(NAME, settings, clients, self.telemetry)
        lifecycle.on_stop(pipeline.close)
        bus = create_bus(settings, service=NAME, pool=database.pool, telemetry=self.telemetry)
        await bus.start()
        lifecycle.on_stop(bus.close)

        workers = Workers()
        lifecycle.on_stop(workers.close)
        # A fallback is there at once; it should not come after a back-off.
        peers = ClientFactory(NAME, telemetry=self.telemetry, retry=RetryPolicy(retries=0))
        lifecycle.on_stop(peers.close)
        eta = EtaClient(peers.stub(EtaServiceStub, settings.eta_target), settings.eta_timeout_s)
        allocator = Allocator(database, bus, eta, workers, settings)
        ticker = Ticker(
            allocator.any_waiting,
            TickTask(allocator, create_dispatcher(pipeline, telemetry=self.telemetry)),
            every_s=settings.allocation_tick_s,
            gap_s=settings.allocation_gap_s,
        )
        rerouter = Rerouter(database, bus, eta, settings)
        group = f"{settings.kafka_group_id}.{NAME}"
        fixes = FixConsumer(bus, rerouter, ticker.soon)
        commands = CommandConsumer(bus)
        changes = ChangeConsumer(rerouter, ticker.soon)
        housekeeping = Housekeeping(database, keep=timedelta(days=settings.keep_orders_days))

        lifecycle.background("recorder", pipeline.run)
        lifecycle.background("routes", rerouter.run)
        lifecycle.background("fixes", bus.consume(group, [GPS_EVENTS], fixes.handle).run)
        lifecycle.background("commands", bus.consume(group, [ORDER_COMMANDS], commands.handle).run)
        lifecycle.background("changes", bus.consume(group, [ORDERS], changes.handle).run)
        lifecycle.background("allocation", ticker.run)
        lifecycle.background("housekeeping", housekeeping.run)

        servicer = RouteServicer(
            database=database,
            bus=bus,
            planner=Planner(database, eta, workers),
            allocator=allocator,
        )
        lifecycle.on_stop(servicer.close)
        service = route_service_pb2.DESCRIPTOR.services_by_name["RouteService"]
        self.server.add(
            add_RouteServiceServicer_to_server, recorded(servicer, service, pipeline, self.telemetry)
        )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, RouteSettings, Route)
