"""Records in: each once, in group commits; outcomes are published in the transaction that stores them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import asyncpg
from google.protobuf.message import Message
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.feedback.v1.signal_pb2 import Signal
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CONFLICTING_CONTENT

from services.feedback import store
from services.feedback.outcome_rows import OutcomeRow, outcome_row
from services.feedback.outcome_store import store_outcomes
from services.feedback.plain import is_plain
from services.feedback.records import DELIVERIES, SIGNALS, Kind, Row, row
from services.feedback.store import Fate
from services.mesh import request_id
from services.mesh.chain.server.validation import check
from services.mesh.errors import AlreadyExists, InvalidArgument
from services.mesh.events import EventBus
from services.mesh.events import Message as BusMessage
from services.mesh.events.topics import AGENT_OUTCOMES
from services.mesh.feedback.outcome import without_secrets
from services.mesh.feedback.signals import without_secrets as signal_without_secrets
from services.mesh.store import GroupCommit, Store

M = TypeVar("M", bound=Message)

# Records of one commit.
_GROUP: Final = 5_000
# Events of one request that are looked at before others get their turn, which a commit under way needs
# several times: half a millisecond if they are everyday ones.
_SLICE: Final = 25
_TYPE: Final = OutcomeEvent.DESCRIPTOR.full_name


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An outcome on its way: complete, so that whoever commits it need know nothing of its caller."""

    row: OutcomeRow
    message: BusMessage


class Intake:
    """The one way in, for RPCs and topics alike. `stored` rings whenever outcomes or signals were stored."""

    def __init__(self, database: Store, bus: EventBus, clock: Callable[[], datetime] | None = None) -> None:
        """`clock` stands in for the database's, by which outcomes are put into days."""
        self._bus = bus
        self._clock = clock
        self.stored = Bell()
        self._outcomes = GroupCommit(database.transaction, self._write_outcomes, max_items=_GROUP)
        self._deliveries = GroupCommit(database.transaction, _plainly(DELIVERIES), max_items=_GROUP)
        self._signals = GroupCommit(database.transaction, _plainly(SIGNALS), max_items=_GROUP)

    async def close(self) -> None:
        """Waits for the writes under way."""
        for group in (self._outcomes, self._deliveries, self._signals):
            await group.close()

    async def outcomes(self, events: Sequence[OutcomeEvent]) -> Sequence[Fate]:
        """Stores and publishes what is new, redacted; durable on return. The events keep the contract."""
        return await self._add(await self._outcomes_of(events, None))

    async def unchecked_outcomes(
        self, events: Sequence[OutcomeEvent]
    ) -> tuple[Sequence[Fate | None], Mapping[int, InvalidArgument]]:
        """The same of events of which each may break the contract: no fate then, but what is wrong."""
        refused: dict[int, InvalidArgument] = {}
        fates = await self._add(await self._outcomes_of(events, refused))
        if not refused:
            return fates, refused
        taken = iter(fates)
        return [None if place in refused else next(taken) for place in range(len(events))], refused

    async def deliveries(self, outcomes: Sequence[DeliveryOutcome]) -> Sequence[Fate]:
        """Stores what is new; durable on return."""
        return await self._deliveries.add([row(DELIVERIES, outcome) for outcome in outcomes])

    async def signals(self, signals: Sequence[Signal]) -> Sequence[Fate]:
        """Stores what is new, redacted; durable on return."""
        fates = await self._signals.add([row(SIGNALS, signal_without_secrets(one)) for one in signals])
        if Fate.STORED in fates:
            self.stored.ring()
        return fates

    async def outcomes_from_topic(
        self, connection: asyncpg.Connection, events: Sequence[OutcomeEvent]
    ) -> Sequence[Fate]:
        """Stores what is new in the reader's transaction; it is on the topic already."""
        for event in events:
            event.DiscardUnknownFields()
        rows = [outcome_row(event if is_plain(event) else without_secrets(event)) for event in events]
        return await store_outcomes(connection, rows, self._now())

    async def _outcomes_of(
        self, events: Sequence[OutcomeEvent], refused: dict[int, InvalidArgument] | None
    ) -> list[_Outcome]:
        """Ready to be stored; those that break the contract are put into `refused`, if they may."""
        headers = request_id.headers()
        outcomes: list[_Outcome] = []
        for place, event in enumerate(events):
            if place and place % _SLICE == 0:
                await asyncio.sleep(0)
            event.DiscardUnknownFields()  # nobody can tell whether there are secrets in them
            if is_plain(event):
                outcomes.append(_outcome(event, headers))
                continue
            if refused is not None:
                try:
                    check(event)
                except InvalidArgument as error:
                    refused[place] = error
                    continue
            outcomes.append(_outcome(without_secrets(event), headers))
        return outcomes

    async def _add(self, outcomes: Sequence[_Outcome]) -> Sequence[Fate]:
        fates = await self._outcomes.add(outcomes)
        if Fate.STORED in fates:
            self.stored.ring()
        return fates

    async def _write_outcomes(
        self, connection: asyncpg.Connection, outcomes: Sequence[_Outcome]
    ) -> Sequence[Fate]:
        # The bus's locks are taken by publish, last; the head row of the kind before them, here as there.
        fates = await store_outcomes(connection, [one.row for one in outcomes], self._now())
        new = [one.message for one, fate in zip(outcomes, fates, strict=True) if fate is Fate.STORED]
        if new:
            await self._bus.publish(connection, new)
        return fates

    def _now(self) -> datetime | None:
        return None if self._clock is None else self._clock()


def _outcome(event: OutcomeEvent, headers: Mapping[str, str]) -> _Outcome:
    made = outcome_row(event)
    message = BusMessage(AGENT_OUTCOMES, event.run_id, made.body, made.id, _TYPE, headers=headers)
    return _Outcome(made, message)


def _plainly(
    kind: Kind[M],
) -> Callable[[asyncpg.Connection, Sequence[Row]], Awaitable[Sequence[Fate]]]:
    async def write(connection: asyncpg.Connection, rows: Sequence[Row]) -> Sequence[Fate]:
        return await store.store(connection, kind, rows)

    return write


def conflict(record_id: str) -> AlreadyExists:
    """What the sender of other content under an id that is taken is told."""
    return AlreadyExists(
        f"{record_id} was recorded before with other content",
        reason=ERROR_REASON_CONFLICTING_CONTENT,
        metadata={"id": record_id},
    )


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
