"""Fixes in, predictions out: one batch of one partition of gps-events at a time.

All that a batch changes is written in the transaction that also moves the group's offset on, so a batch
happens once or not at all. What the process remembers of a partition is checked against the store's token
first.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import asyncpg
import numpy as np
from waymesh.eta.v1.eta_pb2 import EtaPrediction

from services.eta.activity import Activity
from services.eta.advance import advance
from services.eta.answers import answer
from services.eta.cases import Case
from services.eta.counting import counted
from services.eta.decoding import Decoded, decode
from services.eta.learning import Learned
from services.eta.orders import OrderBook, micros
from services.eta.partition import Partition
from services.eta.scoring import outcomes_of
from services.eta.seen import repeats
from services.eta.signals import Signals
from services.eta.store import Counts, EtaStore
from services.eta.tracks import Track
from services.mesh import logs
from services.mesh.events import PROTOBUF, EventBus, Message, Record, causes_of, tenants
from services.mesh.events.dead_letters import dead_letter
from services.mesh.tenancy import plain_message, tenant_of

log = logging.getLogger(__name__)

PREDICTIONS: Final = "eta-predictions"
_PREDICTION_TYPE: Final = EtaPrediction.DESCRIPTOR.full_name


class FixConsumer:
    """Handler of gps-events. Batches of one partition must not overlap; those of different ones may."""

    def __init__(
        self,
        *,
        group: str,
        bus: EventBus,
        store: EtaStore,
        book: OrderBook,
        learned: Callable[[], Learned],
        signals: Signals,
        activity: Activity,
        seen_limit: int,
    ) -> None:
        self._group = group
        self._bus = bus
        self._store = store
        self._book = book
        self._learned = learned
        self._signals = signals
        self._activity = activity
        self._seen_limit = seen_limit
        self.partitions: dict[int, Partition] = {}

    async def handle(self, conn: asyncpg.Connection, records: list[Record]) -> None:
        """Process one batch in the transaction of `conn`."""
        number = records[0].partition
        state = self.partitions.setdefault(number, Partition(number, seen_limit=self._seen_limit))
        began = time.monotonic()
        try:
            predictions = await self._process(conn, state, records)
        except BaseException as error:
            # Whatever was changed here was not committed.
            state.forget()
            if isinstance(error, Exception):
                self._activity.failed(len(records), error)
            raise
        self._activity.done(len(records), predictions, time.monotonic() - began)

    async def hold(self, conn: asyncpg.Connection, state: Partition) -> None:
        """Lock a partition and make `state` what the store holds."""
        token = await self._store.lock_partition(conn, state.number)
        if state.token != token:
            state.take_over(token, await self._store.load_seen(conn, state.number))

    async def _process(self, conn: asyncpg.Connection, state: Partition, records: list[Record]) -> int:
        await self.hold(conn, state)
        batch = decode(records)
        duplicate, conflict = repeats(state.seen, batch.ids, batch.contents)
        new = np.flatnonzero(~duplicate & ~conflict)
        fixes = batch.fixes if len(new) == len(batch.fixes) else batch.fixes.take(new)
        await self._load(conn, state, fixes.driver_id, fixes.order_id)
        moved = advance(fixes, state.couriers, state.tracks, self._book)
        predicted = await self.predict(conn, state, moved.cases, moved.delivered)

        ids, contents = batch.ids[new], batch.contents[new]
        state.seen.add(ids, contents)
        if len(new):
            await self._store.save_seen(conn, state.number, ids, contents)
            rows = state.couriers.get(state.couriers.rows_of(moved.couriers))
            await self._store.save_couriers(conn, moved.couriers, rows)
        if moved.tracks:
            await self._store.save_tracks(conn, state.number, moved.tracks)
        counts = counted(batch, moved.cleaned.flags, duplicate, conflict, predicted.predictions)
        await self.finish(conn, state, counts)
        dead = self._dead(batch, np.flatnonzero(conflict).tolist())
        await self.publish(conn, state, predicted, dead, _causes(batch, predicted.predictions))
        state.trim(moved.delivered)
        self._activity.strangers(len(moved.strangers))
        self._signals.anomalies(fixes, moved.cleaned.flags, moved.strangers)
        self._signals.predicted(predicted.predictions)
        self._signals.heard(moved.tracks)
        return len(predicted.values)

    async def _load(
        self, conn: asyncpg.Connection, state: Partition, drivers: Sequence[str], orders: Sequence[str]
    ) -> None:
        missing = state.couriers.missing(drivers)
        if missing:
            state.couriers.load(await self._store.load_couriers(conn, missing), missing)
        unknown = list({order for order in orders if order and order not in state.tracks})
        if unknown:
            state.tracks.update(await self._store.load_tracks(conn, unknown))

    async def predict(
        self, conn: asyncpg.Connection, state: Partition, cases: list[Case], delivered: list[Track]
    ) -> "Predicted":
        """Predict, store, and score what was delivered. The tracks are changed and still to be saved."""
        predictions = answer(cases, self._learned())
        values = [
            plain_message(prediction, tenant_of(prediction.order_id)).SerializeToString()
            for prediction in predictions
        ]
        for prediction in predictions:
            track = state.tracks[prediction.order_id]
            track.shown_delivery_us = micros(prediction.delivery_eta)
            if prediction.HasField("pickup"):
                track.shown_pickup_us = micros(prediction.pickup_eta)
        if predictions:
            await self._store.save_predictions(
                conn,
                [prediction.order_id for prediction in predictions],
                values,
            )
        await self._score(conn, state, delivered, cases)
        return Predicted(predictions, values)

    async def _score(
        self, conn: asyncpg.Connection, state: Partition, delivered: list[Track], cases: list[Case]
    ) -> None:
        due = {
            track.order_id: track
            for track in delivered
            if not track.scored and self._book.order(track.order_id) is not None
        }
        if not due:
            return
        vehicles = {case.order.order_id: case.vehicle for case in cases}
        outcomes = []
        for order_id, stored in (await self._store.predictions_of(conn, list(due))).items():
            order = self._book.order(order_id)
            if order is not None:
                predictions = [EtaPrediction.FromString(one) for one in stored]
                outcomes += outcomes_of(order, due[order_id], vehicles.get(order_id, 0), predictions)
        for track in due.values():
            track.scored = True
        if outcomes:
            await self._store.queue_outcomes(
                conn,
                [outcome.outcome_id for outcome in outcomes],
                [
                    plain_message(outcome, tenant_of(outcome.outcome_id)).SerializeToString()
                    for outcome in outcomes
                ],
            )

    async def finish(self, conn: asyncpg.Connection, state: Partition, counts: Mapping[str, Counts]) -> None:
        """Count, by tenant, and give the state its new name."""
        token = uuid.uuid4()
        await self._store.count(conn, state.number, token, counts)
        state.token = token

    def _dead(self, batch: Decoded, conflicts: Sequence[int]) -> list[Message]:
        dead = [dead_letter(record, reason, self._group) for record, reason in batch.poison]
        reason = "event_id came before with other content"
        return dead + [dead_letter(batch.records[row], reason, self._group) for row in conflicts]

    async def publish(
        self,
        conn: asyncpg.Connection,
        state: Partition,
        predicted: "Predicted",
        others: Sequence[Message] = (),
        causes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Publish predictions and other events; nothing may follow in the transaction.

        `causes` are the request ids of orders; orders it does not hold follow from what is being served.
        """
        if not predicted.values and not others:
            return
        # The token is written once and for all in this transaction, so ids made of it are too.
        batch = state.token
        served = logs.request_id.get()
        await self._bus.publish(
            conn,
            [
                *others,
                *(
                    Message(
                        topic=PREDICTIONS,
                        key=prediction.order_id,
                        value=value,
                        event_id=f"{batch}-{place}",
                        type=_PREDICTION_TYPE,
                        content_type=PROTOBUF,
                        headers=tenants.headers_of(
                            causes.get(prediction.order_id, served), tenant_of(prediction.order_id)
                        ),
                    )
                    for place, (prediction, value) in enumerate(
                        zip(predicted.predictions, predicted.values, strict=True)
                    )
                ),
            ],
        )


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions and their bytes, which hold plain ids."""

    predictions: list[EtaPrediction]
    values: list[bytes]


def _causes(batch: Decoded, predictions: Sequence[EtaPrediction]) -> dict[str, str]:
    """Which request each prediction follows from, unless the whole batch follows from one."""
    if logs.request_id.get() or not predictions:
        return {}
    wanted = {prediction.order_id for prediction in predictions}
    rows = zip(batch.fixes.order_id, batch.records, strict=True)
    return causes_of((order_id, record) for order_id, record in rows if order_id in wanted)
