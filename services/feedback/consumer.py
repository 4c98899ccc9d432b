"""Outcomes that others put on the topic, stored in the transaction that moves the reader on."""

import logging
from collections.abc import Sequence
from typing import Final

import asyncpg
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.intake import Intake
from services.feedback.store import Fate
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument
from services.mesh.events import EventBus, PoisonMessage, Record, decode_value
from services.mesh.events.tenants import tenant_of

_log = logging.getLogger(__name__)

CONFLICT: Final = "an outcome with this event_id was recorded before with other content"


class OutcomeConsumer:
    """Handler of the outcome topic, without what we published: that is stored."""

    def __init__(self, intake: Intake, bus: EventBus) -> None:
        self._intake = intake
        self._bus = bus

    async def handle(self, connection: asyncpg.Connection, records: Sequence[Record]) -> None:
        """Stores one batch; what breaks the contract or contradicts itself goes to the dead letters."""
        read: list[tuple[Record, str, OutcomeEvent]] = []
        dead: list[tuple[Record, str]] = []
        for record in records:
            try:
                read.append((record, tenant_of(record), self._read(record)))
            except PoisonMessage as poison:
                dead.append((record, poison.reason))
        fates = await self._intake.outcomes_from_topic(
            connection, [event for *_, event in read], [tenant for _, tenant, _ in read]
        )
        dead += [
            (record, CONFLICT)
            for (record, *_), fate in zip(read, fates, strict=True)
            if fate is Fate.CONFLICT
        ]
        # Last, for the locks they take; one by one, since most batches have none.
        for record, reason in dead:
            await self._bus.dead_letter(connection, record, reason)
        if Fate.STORED in fates:
            # Rung before the commit: a watcher that comes too early finds nothing and polls again.
            self._intake.stored.ring()

    def _read(self, record: Record) -> OutcomeEvent:
        event = decode_value(record, OutcomeEvent)
        try:
            check(event)
        except InvalidArgument as error:
            raise PoisonMessage(record, error.message) from error
        return event
