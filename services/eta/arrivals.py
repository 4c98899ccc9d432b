"""The topic `orders`, read by every replica: what is known of orders, and predictions that waited for one."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import asyncpg
from waymesh.gps.v1.gps_pb2 import TripStage
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import OrderStatus

from services.eta.advance import case_of
from services.eta.cases import Case
from services.eta.consumer import FixConsumer
from services.eta.couriers import NEVER, CourierTable
from services.eta.orders import KnownOrder, OrderBook
from services.eta.partition import Partition
from services.eta.store import Counts, EtaStore
from services.eta.tracks import Track
from services.mesh.events import Record, decode_value

# The replica that holds the partition answers at once; the others see to it only if it did not.
_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Due:
    partition: int
    orders: list[str]


class OrderArrivals:
    """Broadcast handler of `orders`, and the task that predicts from fixes that came before their order."""

    def __init__(self, *, store: EtaStore, book: OrderBook, consumer: FixConsumer) -> None:
        self._store = store
        self._book = book
        self._consumer = consumer
        self._changed: asyncio.Queue[list[KnownOrder]] = asyncio.Queue()

    async def handle(self, records: list[Record]) -> None:
        """Take in what route accepted."""
        changed = self._book.apply([decode_value(record, OrderEvent) for record in records])
        if changed:
            self._changed.put_nowait(changed)

    async def run(self) -> None:
        """Predict what waited. A failure is tried again by the supervisor, with nothing lost."""
        while True:
            changed = await self._changed.get()
            while not self._changed.empty():
                changed += self._changed.get_nowait()
            try:
                await self._settle(changed)
            except BaseException:
                self._changed.put_nowait(changed)
                raise

    async def _settle(self, changed: list[KnownOrder]) -> None:
        delivered = [order.order_id for order in changed if _delivered(order)]
        # A fix may be under way in a transaction of this process: its track is in memory before it is in
        # the store.
        due: dict[int, set[str]] = {}
        for number, state in self._consumer.partitions.items():
            for order in changed:
                track = state.tracks.get(order.order_id)
                if track is not None and _is_due(order, track):
                    due.setdefault(number, set()).add(order.order_id)
        stored = await self._store.due([order.order_id for order in changed], delivered)
        for number, orders in stored.items():
            due.setdefault(number, set()).update(orders)
        for number, order_ids in due.items():
            await self._settle_partition(_Due(number, sorted(order_ids)))

    async def _settle_partition(self, due: _Due) -> None:
        held = self._consumer.partitions.get(due.partition)
        if not await self._try(due, held, must_hold=True):
            await asyncio.sleep(_GRACE_S)
            await self._try(due, held, must_hold=False)

    async def _try(self, due: _Due, held: Partition | None, *, must_hold: bool) -> bool:
        """Predict in a transaction. False: another replica may hold the partition, and it was to be left
        to it.
        """
        async with self._store.transaction() as conn:
            token = await self._store.lock_partition(conn, due.partition)
            mine = held is not None and held.token == token
            if must_hold and not mine:
                return False
            state = held if held is not None and mine else Partition(due.partition, seen_limit=1)
            try:
                await self._predict(conn, state, due.orders)
            except BaseException:
                state.forget()
                raise
        return True

    async def _predict(self, conn: asyncpg.Connection, state: Partition, order_ids: list[str]) -> None:
        missing = [order_id for order_id in order_ids if order_id not in state.tracks]
        if missing:
            state.tracks.update(await self._store.load_tracks(conn, missing))
        tracks = [state.tracks[order_id] for order_id in order_ids if order_id in state.tracks]
        unknown = state.couriers.missing(track.driver_id for track in tracks)
        if unknown:
            state.couriers.load(await self._store.load_couriers(conn, unknown), unknown)
        cases, delivered, touched = self._cases(tracks, state.couriers)
        if not touched:
            return
        predicted = await self._consumer.predict(conn, state, cases, delivered)
        await self._store.save_tracks(conn, state.number, touched)
        await self._consumer.finish(conn, state, Counts(predictions=len(cases)))
        await self._consumer.publish(conn, state, predicted)
        state.trim(delivered)

    def _cases(
        self, tracks: Iterable[Track], couriers: CourierTable
    ) -> tuple[list[Case], list[Track], list[Track]]:
        """What is to be predicted, what was delivered, and the tracks that changed."""
        cases: list[Case] = []
        delivered, touched = [], []
        for track in tracks:
            order = self._book.order(track.order_id)
            if order is None or not _is_due(order, track):
                continue
            touched.append(track)
            track.awaiting = False
            if order.cancelled:
                continue
            if _delivered(order) and not track.over:
                place = track.start_lat, track.start_lon
                track.enter(TripStage.TRIP_STAGE_DELIVERED, order.delivered_us, place)
                track.last_us = max(track.last_us, order.delivered_us)
            if track.over:
                delivered.append(track)
            row = couriers.find(track.driver_id)
            if row is not None:
                cases.append(
                    case_of(
                        order,
                        track,
                        driver_id=track.driver_id,
                        at_us=track.last_us,
                        here=(float(row["usable_lat"][0]), float(row["usable_lon"][0])),
                        run=(float(row["run_m"][0]), float(row["run_s"][0])),
                        vehicle=int(row["vehicle"][0]),
                        traffic=int(row["traffic"][0]),
                        fresh=True,
                    )
                )
        return cases, delivered, touched


def _delivered(order: KnownOrder) -> bool:
    return order.status == OrderStatus.ORDER_STATUS_DELIVERED and order.delivered_us != NEVER


def _is_due(order: KnownOrder, track: Track) -> bool:
    return track.awaiting or (_delivered(order) and not track.over)
