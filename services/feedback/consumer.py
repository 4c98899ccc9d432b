"""Outcomes that others put on the topic, stored in the transaction that moves the reader on."""

import logging
from collections.abc import Sequence
from typing import Final

import asyncpg
import protovalidate
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.intake import Intake
from services.feedback.refusals import faults_of
from services.feedback.store import Fate
from services.mesh.events import EventBus, PoisonMessage, Record, decode_value

_log = logging.getLogger(__name__)

CONFLICT: Final = "an outcome with this event_id was recorded before with other content"


class OutcomeConsumer:
    """Handler of the outcome topic. Our own published outcomes come back too: those are duplicates."""

    def __init__(self, intake: Intake, bus: EventBus) -> None:
        self._intake = intake
        self._bus = bus

    async def handle(self, connection: asyncpg.Connection, records: Sequence[Record]) -> None:
        """Stores one batch; what breaks the contract or contradicts itself goes to the dead letters."""
        events = [self._read(record) for record in records]
        fates = await self._intake.outcomes_from_topic(connection, events)
        for record, fate in zip(records, fates, strict=True):
            if fate is Fate.CONFLICT:
                await self._bus.dead_letter(connection, record, CONFLICT)
        if Fate.STORED in fates:
            # Rung before the commit: a watcher that comes too early finds nothing and polls again.
            self._intake.stored.ring()

    def _read(self, record: Record) -> OutcomeEvent:
        event = decode_value(record, OutcomeEvent)
        violations = protovalidate.collect_violations(event)
        if violations:
            first = violations[0].proto
            path = ".".join(element.field_name for element in first.field.elements) if first.field else ""
            raise PoisonMessage(record, f"{path}: {first.message}" if path else first.message)
        for fault in faults_of(event):
            raise PoisonMessage(record, f"{fault.field}: {fault.description}")
        return event
