"""Wiring of feedback: settings → store → bus → intake → servicer → consumer → lifecycle. No logic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from waymesh.feedback.v1 import feedback_service_pb2
from waymesh.feedback.v1.feedback_service_pb2_grpc import add_FeedbackServiceServicer_to_server
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.consumer import OutcomeConsumer
from services.feedback.intake import Intake
from services.feedback.service import FeedbackServicer
from services.feedback.settings import FeedbackSettings
from services.mesh.events import create_bus
from services.mesh.feedback import FeedbackPipeline, recorded
from services.mesh.feedback.spool import Spool
from services.mesh.lifecycle import Lifecycle
from services.mesh.process import run_service
from services.mesh.server import GrpcServer
from services.mesh.store import Store
from services.mesh.telemetry import Telemetry

NAME: Final = "feedback"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Recording the recording would never end.
_UNRECORDED: Final = ("record_outcomes", "record_delivery_outcomes", "record_signals")


class Feedback:
    """One process's feedback; `server.port` is bound once `lifecycle` has started."""

    def __init__(self, settings: FeedbackSettings, dsn: str) -> None:
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
        await self.lifecycle.stop()

    async def _open(self) -> None:
        settings, lifecycle = self._settings, self.lifecycle
        database = await Store.open(self._dsn, schema=NAME, migrations=MIGRATIONS)
        lifecycle.on_stop(database.close)
        self.server.check("store", database.ping)
        bus = create_bus(settings, service=NAME, pool=database.pool)
        await bus.start()
        lifecycle.on_stop(bus.close)

        intake = Intake(database, bus, outcome_topic=settings.kafka_outcome_topic)

        async def send(events: Sequence[OutcomeEvent]) -> None:
            await intake.outcomes(events)

        pipeline = FeedbackPipeline(
            send=send,
            spool=Spool(settings.data_dir / "spool" / NAME),
            batch_size=settings.kafka_batch_size,
            linger_s=settings.kafka_linger_ms / 1000,
            enabled=settings.enable_outcome_logging,
            telemetry=self.telemetry,
        )
        lifecycle.on_stop(pipeline.close)
        outcomes = bus.consume(
            f"{settings.kafka_group_id}.{NAME}",
            [settings.kafka_outcome_topic],
            OutcomeConsumer(intake, bus).handle,
        )
        lifecycle.background("outcomes", outcomes.run)
        lifecycle.background("recorder", pipeline.run)
        service = feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
        self.server.add(
            add_FeedbackServiceServicer_to_server,
            recorded(
                FeedbackServicer(database, intake), service, pipeline, self.telemetry, without=_UNRECORDED
            ),
        )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, FeedbackSettings, Feedback)
