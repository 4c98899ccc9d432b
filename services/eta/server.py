"""Wiring of eta: settings → store → bus → engine → servicer → consumers → lifecycle. No logic."""

import asyncio
import logging
from datetime import timedelta
from pathlib import Path
from typing import Final, NoReturn

from waymesh.eta.v1 import eta_service_pb2
from waymesh.eta.v1.eta_service_pb2_grpc import add_EtaServiceServicer_to_server
from waymesh.feedback.v1.feedback_service_pb2_grpc import FeedbackServiceStub

from services.eta.accuracy import Accuracy
from services.eta.activity import Activity
from services.eta.arrivals import OrderArrivals
from services.eta.consumer import FixConsumer
from services.eta.housekeeping import Housekeeping
from services.eta.intake import FIXES, Intake
from services.eta.learner import Learner
from services.eta.orders import OrderBook
from services.eta.outbox import OutcomeSender
from services.eta.partition import Partition
from services.eta.queries import EtaQueries
from services.eta.service import EtaServicer
from services.eta.settings import EtaSettings
from services.eta.signals import Signals
from services.eta.store import EtaStore
from services.eta.watch import PredictionWatch
from services.mesh.events import Consumer
from services.mesh.feedback import FeedbackPipeline, recorded
from services.mesh.process import run_service
from services.mesh.service import GrpcService

log = logging.getLogger(__name__)

NAME: Final = "eta"
ORDERS: Final = "orders"
# Fixes are published as they came, with plain ids: those who read them qualify them.
AS_THEY_ARE: Final = ("/waymesh.eta.v1.EtaService/ReportGps", "/waymesh.eta.v1.EtaService/StreamGps")
MIGRATIONS: Final = Path(__file__).parent / "migrations"


class Eta(GrpcService[EtaSettings]):
    """One process's eta."""

    def __init__(self, settings: EtaSettings, dsn: str) -> None:
        super().__init__(NAME, settings, dsn, qualified=True, as_they_are=AS_THEY_ARE)

    async def wire(self) -> None:
        settings, lifecycle = self.settings, self.lifecycle
        pool = await self.open_store(MIGRATIONS)
        clients = self.clients()
        feedback = clients.stub(FeedbackServiceStub, settings.feedback_target)
        pipeline = FeedbackPipeline.create(NAME, settings, clients, self.telemetry)
        lifecycle.on_stop(pipeline.close)
        bus = await self.open_bus(pool)

        store = EtaStore(pool)
        book = OrderBook()
        signals = Signals(self.signals)
        activity = Activity(pipeline, NAME)
        learner = Learner(store, feedback, signals, every_s=settings.learn_every_s)
        await learner.load()
        consumer = FixConsumer(
            group=self.group,
            bus=bus,
            store=store,
            book=book,
            learned=lambda: learner.learned,
            signals=signals,
            activity=activity,
            seen_limit=settings.dedupe_fixes,
        )
        fixes = bus.consume(self.group, [FIXES], consumer.handle, max_batch=settings.gps_batch)
        arrivals = OrderArrivals(
            store=store,
            book=book,
            consumer=consumer,
            behind=lambda: {number: count for (_, number), count in fixes.lag().items()},
        )
        orders = bus.broadcast([ORDERS], arrivals.handle, from_start=True)
        housekeeping = Housekeeping(
            store,
            partitions=lambda: list(consumer.partitions),
            seen=timedelta(hours=settings.dedupe_hours),
            seen_fixes=settings.dedupe_fixes,
            predictions=timedelta(hours=settings.keep_predictions_hours),
        )
        accuracy = Accuracy(self.telemetry.registry)
        sender = OutcomeSender(store, feedback, on_sent=learner.soon, on_scored=accuracy.scored)
        self.telemetry.outboxes.watch("deliveries", store.waiting_outcomes)

        def partitions() -> list[Partition]:
            return list(consumer.partitions.values())

        # Who asks at once is rather answered a little later than told to come back.
        await _until_caught_up(orders, settings.orders_wait_s)

        lifecycle.background("orders", orders.run)
        lifecycle.background("arrivals", arrivals.run)
        lifecycle.background("fixes", fixes.run)
        lifecycle.background("outcomes", sender.run)
        lifecycle.background("learning", learner.run)
        lifecycle.background("signals", signals.run)
        lifecycle.background("housekeeping", housekeeping.run)
        lifecycle.background("activity", activity.run)
        lifecycle.background("recorder", pipeline.run)

        intake = Intake(bus=bus, store=store, partitions=partitions)
        lifecycle.on_stop(intake.close)
        servicer = EtaServicer(
            intake=intake,
            queries=EtaQueries(
                store=store,
                book=book,
                learned=lambda: learner.learned,
                partitions=partitions,
                orders_read=orders.caught_up.is_set,
            ),
            watch=PredictionWatch(store),
            store=store,
            learned=lambda: learner.learned,
        )
        service = eta_service_pb2.DESCRIPTOR.services_by_name["EtaService"]
        self.server.add(
            add_EtaServiceServicer_to_server, recorded(servicer, service, pipeline, self.telemetry)
        )


async def _until_caught_up(reader: Consumer, limit_s: float) -> None:
    """Read what there is; the reader goes on from there when it is run again."""
    reading = asyncio.create_task(reader.run(), name="orders so far")
    try:
        async with asyncio.timeout(limit_s):
            await reader.caught_up.wait()
    except TimeoutError:
        log.warning("orders are still being read: who asks for one not read yet is told to come back")
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, EtaSettings, Eta)
