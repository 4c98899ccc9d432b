"""Records in: each once, in group commits; outcomes are published in the transaction that stores them."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

import asyncpg
from google.protobuf.message import Message
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.feedback.v1.signal_pb2 import Signal

from services.feedback import store
from services.feedback.committer import Committer
from services.feedback.records import DELIVERIES, OUTCOMES, SIGNALS, Kind, row, without_secrets
from services.feedback.store import Fate
from services.mesh.events import EventBus
from services.mesh.events import Message as BusMessage
from services.mesh.events.topics import AGENT_OUTCOMES
from services.mesh.store import Store

M = TypeVar("M", bound=Message)


class Intake:
    """The one way in, for RPCs and topics alike. `stored` rings whenever outcomes were stored."""

    def __init__(self, database: Store, bus: EventBus) -> None:
        self._database = database
        self._bus = bus
        self.stored = Bell()
        self._outcomes: Committer[OutcomeEvent, Fate] = Committer(self._commit_outcomes)
        self._deliveries: Committer[DeliveryOutcome, Fate] = Committer(self._plainly(DELIVERIES))
        self._signals: Committer[Signal, Fate] = Committer(self._plainly(SIGNALS))

    async def outcomes(self, events: Sequence[OutcomeEvent]) -> Sequence[Fate]:
        """Stores and publishes what is new, redacted; durable on return."""
        fates = await self._outcomes.add([without_secrets(event) for event in events])
        if Fate.STORED in fates:
            self.stored.ring()
        return fates

    async def deliveries(self, outcomes: Sequence[DeliveryOutcome]) -> Sequence[Fate]:
        """Stores what is new; durable on return."""
        return await self._deliveries.add(outcomes)

    async def signals(self, signals: Sequence[Signal]) -> Sequence[Fate]:
        """Stores what is new; durable on return."""
        return await self._signals.add(signals)

    async def outcomes_from_topic(
        self, connection: asyncpg.Connection, events: Sequence[OutcomeEvent]
    ) -> Sequence[Fate]:
        """Stores what is new in the reader's transaction; it is on the topic already."""
        rows = [row(OUTCOMES, without_secrets(event)) for event in events]
        return await store.store(connection, OUTCOMES, rows)

    async def _commit_outcomes(self, events: Sequence[OutcomeEvent]) -> Sequence[Fate]:
        rows = [row(OUTCOMES, event) for event in events]
        async with self._database.transaction() as connection:
            # The bus's locks are taken by publish, last; the head row of the kind before them, here as there.
            fates = await store.store(connection, OUTCOMES, rows)
            new = [
                BusMessage(
                    topic=AGENT_OUTCOMES,
                    key=event.run_id,
                    value=one.body,
                    event_id=one.id,
                    type=OutcomeEvent.DESCRIPTOR.full_name,
                )
                for event, one, fate in zip(events, rows, fates, strict=True)
                if fate is Fate.STORED
            ]
            if new:
                await self._bus.publish(connection, new)
        return fates

    def _plainly(self, kind: Kind[M]) -> Any:
        async def commit(messages: Sequence[M]) -> Sequence[Fate]:
            rows = [row(kind, message) for message in messages]
            async with self._database.transaction() as connection:
                return await store.store(connection, kind, rows)

        return commit


class Bell:
    """Wakes everybody who waits at the moment."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> None:
        """Until the next ring, at most `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
