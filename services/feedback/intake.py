"""Records in: each once, in group commits; outcomes are published in the transaction that stores them.

Who sends them is a tenant, whose ids are plain, or the mesh, which sends those of several tenants at once.
"""

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
from services.feedback.owners import outcome_taken
from services.feedback.plain import is_plain
from services.feedback.records import DELIVERIES, SIGNALS, Kind, Row, owner, row
from services.feedback.store import Fate
from services.mesh.chain.server.validation import check
from services.mesh.errors import AlreadyExists, InvalidArgument
from services.mesh.events import EventBus, tenants
from services.mesh.events import Message as BusMessage
from services.mesh.events.topics import AGENT_OUTCOMES
from services.mesh.feedback.outcome import without_secrets
from services.mesh.feedback.signals import without_secrets as signal_without_secrets
from services.mesh.principal import DEFAULT_TENANT
from services.mesh.store import GroupCommit, Store
from services.mesh.tenancy import qualify

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

    async def outcomes(self, events: Sequence[OutcomeEvent], sender: str = DEFAULT_TENANT) -> Sequence[Fate]:
        """Stores and publishes what is new, redacted; durable on return. The events keep the contract.

        Their ids are plain then, whoever sends them.
        """
        return await self._add(await self._outcomes_of(events, None, sender))

    async def unchecked_outcomes(
        self, events: Sequence[OutcomeEvent], sender: str = DEFAULT_TENANT
    ) -> tuple[Sequence[Fate | None], Mapping[int, InvalidArgument]]:
        """The same of events of which each may break the contract: no fate then, but what is wrong."""
        refused: dict[int, InvalidArgument] = {}
        fates = await self._add(await self._outcomes_of(events, refused, sender))
        if not refused:
            return fates, refused
        taken = iter(fates)
        return [None if place in refused else next(taken) for place in range(len(events))], refused

    async def deliveries(
        self, outcomes: Sequence[DeliveryOutcome], sender: str = DEFAULT_TENANT
    ) -> Sequence[Fate]:
        """Stores what is new; durable on return. Their ids are plain then."""
        rows = []
        for outcome in outcomes:
            tenant = owner(DELIVERIES, outcome, sender)
            rows.append(row(DELIVERIES, outcome, tenant))
        return await self._deliveries.add(rows)

    async def signals(self, signals: Sequence[Signal], sender: str = DEFAULT_TENANT) -> Sequence[Fate]:
        """Stores what is new, redacted; durable on return. Their ids are plain then."""
        rows = []
        for signal in signals:
            tenant = owner(SIGNALS, signal, sender)
            rows.append(row(SIGNALS, signal_without_secrets(signal), tenant))
        fates = await self._signals.add(rows)
        if Fate.STORED in fates:
            self.stored.ring()
        return fates

    async def outcomes_from_topic(
        self,
        connection: asyncpg.Connection,
        events: Sequence[OutcomeEvent],
        whose: Sequence[str] | None = None,
    ) -> Sequence[Fate]:
        """Stores what is new in the reader's transaction; it is on the topic already.

        `whose`: the tenant of each; all are the default one's without.
        """
        rows = []
        for tenant, event in zip(whose or [DEFAULT_TENANT] * len(events), events, strict=True):
            event.DiscardUnknownFields()
            rows.append(outcome_row(event if is_plain(event) else without_secrets(event), tenant))
        return await store_outcomes(connection, rows, self._now())

    async def _outcomes_of(
        self, events: Sequence[OutcomeEvent], refused: dict[int, InvalidArgument] | None, sender: str
    ) -> list[_Outcome]:
        """Ready to be stored; those that break the contract are put into `refused`, if they may."""
        outcomes: list[_Outcome] = []
        for place, event in enumerate(events):
            if place and place % _SLICE == 0:
                await asyncio.sleep(0)
            event.DiscardUnknownFields()  # nobody can tell whether there are secrets in them
            tenant = outcome_taken(event, sender)
            if is_plain(event):
                outcomes.append(_outcome(event, tenant))
                continue
            if refused is not None:
                try:
                    check(event)
                except InvalidArgument as error:
                    refused[place] = error
                    continue
            outcomes.append(_outcome(without_secrets(event), tenant))
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


def _outcome(event: OutcomeEvent, tenant: str) -> _Outcome:
    made = outcome_row(event, tenant)
    key, headers = qualify(tenant, event.run_id), tenants.headers(tenant)
    return _Outcome(made, BusMessage(AGENT_OUTCOMES, key, made.body, made.id, _TYPE, headers=headers))


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
