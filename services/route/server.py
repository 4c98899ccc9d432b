"""Wiring of route: settings → store → bus → engines → servicer → consumers → lifecycle. No logic."""

from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub
from waymesh.route.v1 import route_service_pb2
from waymesh.route.v1.route_service_pb2_grpc import add_RouteServiceServicer_to_server

from services.mesh.feedback import FeedbackPipeline, create_dispatcher, recorded
from services.mesh.process import run_service
from services.mesh.retry import RetryPolicy
from services.mesh.service import GrpcService
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


class Route(GrpcService[RouteSettings]):
    """One process's route."""

    def __init__(self, settings: RouteSettings, dsn: str) -> None:
        super().__init__(NAME, settings, dsn, qualified=True)

    async def wire(self) -> None:
        settings, lifecycle = self.settings, self.lifecycle
        database = await self.open_store(MIGRATIONS)
        clients = self.clients()
        pipeline = FeedbackPipeline.create(NAME, settings, clients, self.telemetry)
        lifecycle.on_stop(pipeline.close)
        bus = await self.open_bus(database)

        workers = Workers()
        lifecycle.on_stop(workers.close)
        # A fallback is there at once; it should not come after a back-off.
        peers = self.clients(RetryPolicy(retries=0))
        eta = EtaClient(peers.stub(EtaServiceStub, settings.eta_target), settings.eta_timeout_s)
        allocator = Allocator(database, bus, eta, workers, settings)
        ticker = Ticker(
            allocator.any_waiting,
            TickTask(allocator, create_dispatcher(pipeline, telemetry=self.telemetry)),
            every_s=settings.allocation_tick_s,
            gap_s=settings.allocation_gap_s,
            again_s=allocator.again_s,
        )
        rerouter = Rerouter(database, bus, eta, settings)
        fixes = FixConsumer(bus, rerouter, ticker.soon)
        commands = CommandConsumer(bus)
        changes = ChangeConsumer(rerouter, ticker.soon)
        housekeeping = Housekeeping(database, keep=timedelta(days=settings.keep_orders_days))

        lifecycle.background("recorder", pipeline.run)
        lifecycle.background("routes", rerouter.run)
        lifecycle.background("fixes", bus.consume(self.group, [GPS_EVENTS], fixes.handle).run)
        lifecycle.background("commands", bus.consume(self.group, [ORDER_COMMANDS], commands.handle).run)
        lifecycle.background("changes", bus.consume(self.group, [ORDERS], changes.handle).run)
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
