"""Wiring of feedback: settings → store → bus → intake → servicer → consumer → lifecycle. No logic."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from waymesh.feedback.v1 import feedback_service_pb2
from waymesh.feedback.v1.feedback_service_pb2_grpc import add_FeedbackServiceServicer_to_server
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.feedback.v1.signal_pb2 import Signal

from services.feedback.alerting import Alerting
from services.feedback.consumer import OutcomeConsumer
from services.feedback.days import Days
from services.feedback.intake import Intake
from services.feedback.leader import Leader
from services.feedback.plain import are_plain
from services.feedback.service import AS_THEY_ARE, FeedbackServicer
from services.feedback.settings import FeedbackSettings
from services.mesh import principal
from services.mesh.chain.server import validation
from services.mesh.errors import Unavailable, translate
from services.mesh.events.topics import AGENT_OUTCOMES
from services.mesh.feedback import FeedbackPipeline, recorded
from services.mesh.feedback.spool import Spool
from services.mesh.lifecycle import settle
from services.mesh.process import run_service
from services.mesh.service import GrpcService

NAME: Final = "feedback"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
# Recording the recording would never end.
_UNRECORDED: Final = ("record_outcome", "record_outcomes", "record_delivery_outcomes", "record_signals")


class Feedback(GrpcService[FeedbackSettings]):
    """One process's feedback."""

    def __init__(self, settings: FeedbackSettings, dsn: str) -> None:
        super().__init__(NAME, settings, dsn, qualified=True, as_they_are=AS_THEY_ARE)
        self._intake: Intake | None = None

    async def record_signals(self, signals: Sequence[Signal]) -> None:
        """Its own it has here already; while the store is away they wait like those of others."""
        if self._intake is None:
            raise Unavailable("feedback has not started")
        try:
            await self._intake.signals(signals, principal.current().tenant)
        except Exception as error:
            raise translate(error) from error

    async def wire(self) -> None:
        settings, lifecycle = self.settings, self.lifecycle
        database = await self.open_store(MIGRATIONS)
        bus = await self.open_bus(database)

        days = Days(database.pool, settings.outcome_retention_days)
        await days.ahead()
        lifecycle.background("days of outcomes", days.run)
        intake = self._intake = Intake(database, bus)
        lifecycle.on_stop(intake.close)

        async def send(events: Sequence[OutcomeEvent]) -> None:
            await intake.outcomes(events, principal.MESH_TENANT)

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
            self.group, [AGENT_OUTCOMES], OutcomeConsumer(intake, bus).handle, unless_from=self.name
        )
        lifecycle.background("outcomes", outcomes.run)
        lifecycle.background("recorder", pipeline.run)
        leader = Leader(
            database,
            bus,
            intake.stored,
            specs=settings.windows,
            lateness_s=settings.metric_lateness_s,
            keep_days=settings.outcome_retention_days,
            alerting=Alerting(settings.alert_rules, keep_days=settings.outcome_retention_days),
            telemetry=self.telemetry,
        )
        lifecycle.background("windows", leader.run)
        validation.at_a_glance(feedback_service_pb2.RecordOutcomesRequest, are_plain)
        servicer = FeedbackServicer(
            database,
            intake,
            windows=[spec.name for spec in settings.windows],
            rules=list(settings.alert_rules.all),
        )
        service = feedback_service_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
        self.server.add(
            add_FeedbackServiceServicer_to_server,
            recorded(servicer, service, pipeline, self.telemetry, without=_UNRECORDED),
        )


def main() -> NoReturn:
    """Entry of the process."""
    run_service(NAME, FeedbackSettings, _alone)


def _alone(settings: FeedbackSettings, dsn: str) -> Feedback:
    service = Feedback(settings, dsn)
    service.lifecycle.on_ready(settle)
    return service
