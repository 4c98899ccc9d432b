"""The topic `orders`, read by every replica: what is known of orders, and predictions that waited for one."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg
from waymesh.order.v1.events_pb2 import OrderEvent

from services.eta.advance import case_of
from services.eta.cases import Case
from services.eta.consumer import FixConsumer
from services.eta.counting import counts_of
from services.eta.couriers import CourierTable
from services.eta.holders import believed
from services.eta.orders import KnownOrder, OrderBook
from services.eta.partition import Partition
from services.eta.store import EtaStore
from services.eta.tracks import Track
from services.mesh.events import Record, tenants

# The replica that holds the partition answers at once; the others see to it only if it did not.
_GRACE_S: Final = 1.0
# A delivery that nobody could end for so long belongs to no partition that is read.
_GIVE_UP_S: Final = 600.0
# How often deliveries told by a status alone are looked at, and how long after the status at the soonest.
_LOOK_S: Final = 1.0

Behind = Callable[[], Mapping[int, int]]
"""Fixes still to be processed, by partition of gps-events, of the partitions that this process reads."""


@dataclass(frozen=True, slots=True)
class _Due:
    partition: int
    orders: list[str]
    ended: bool = False
    """No fix of theirs is still to come: what their status says holds."""


class OrderArrivals:
    """Broadcast handler of `orders`, and the task that predicts from fixes that came before their order."""

    def __init__(self, *, store: EtaStore, book: OrderBook, consumer: FixConsumer, behind: Behind) -> None:
        self._store = store
        self._book = book
        self._consumer = consumer
        self._behind = behind
        self._changed: asyncio.Queue[list[KnownOrder]] = asyncio.Queue()
        # Delivered by their status: order_id to when that was heard, on the monotonic clock.
        self._told: dict[str, float] = {}

    async def handle(self, records: list[Record]) -> None:
        """Take in what route accepted."""
        changed = self._book.apply([tenants.read(record, OrderEvent) for record in records])
        if changed:
            self._changed.put_nowait(changed)

    async def run(self) -> None:
        """Predict what waited. A failure is tried again by the supervisor, with nothing lost."""
        while True:
            changed = await self._news()
            while not self._changed.empty():
                changed += self._changed.get_nowait()
            try:
                await self._settle(changed)
                await self._end_told()
            except BaseException:
                if changed:
                    self._changed.put_nowait(changed)
                raise

    async def _news(self) -> list[KnownOrder]:
        """Changed orders; none if it is time to look at deliveries."""
        try:
            async with asyncio.timeout(_LOOK_S if self._told else None):
                return list(await self._changed.get())
        except TimeoutError:
            return []

    async def _settle(self, changed: list[KnownOrder]) -> None:
        """Predict from fixes that came before their order."""
        now = time.monotonic()
        self._told.update((order.order_id, now) for order in changed if order.handed_over)
        order_ids = [order.order_id for order in changed]
        due = await self._find(order_ids, await self._store.due(order_ids, []), lambda track: track.awaiting)
        for number, orders in due.items():
            await self._settle_partition(_Due(number, sorted(orders)))

    async def _end_told(self) -> None:
        """End deliveries that only the order's status tells of, once nothing before them is still to come.

        route may have read fixes that this process has not: they happened before the handover.
        """
        now = time.monotonic()
        ripe = [order_id for order_id, since in self._told.items() if now - since >= _LOOK_S]
        if not ripe:
            return
        behind = self._behind()
        due = await self._find(ripe, await self._store.due(ripe, ripe), lambda track: not track.over)
        waiting: set[str] = set()
        for number, orders in due.items():
            if behind.get(number) == 0:
                await self._settle_partition(_Due(number, sorted(orders), ended=True))
                continue
            late = [one for one in orders if now - self._told[one] > _GIVE_UP_S]
            if late:
                await self._settle_partition(_Due(number, sorted(late), ended=True))
            waiting.update(orders.difference(late))
        all_in = not any(behind.values())
        for order_id in ripe:
            # One that is not due may have its first fix still to come.
            if order_id not in waiting and (all_in or now - self._told[order_id] > _GIVE_UP_S):
                del self._told[order_id]

    async def _find(
        self, order_ids: Iterable[str], stored: Mapping[int, list[str]], wanted: Callable[[Track], bool]
    ) -> dict[int, set[str]]:
        """By partition, the orders that are due: those in the store, and those whose track is changed in
        memory by a transaction that is still under way.
        """
        due = {number: set(orders) for number, orders in stored.items()}
        for number, state in self._consumer.partitions.items():
            for order_id in order_ids:
                track = state.tracks.get(order_id)
                if track is not None and wanted(track):
                    due.setdefault(number, set()).add(order_id)
        return due

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
                await self._predict(conn, state, due)
            except BaseException:
                state.forget()
                raise
        return True

    async def _predict(self, conn: asyncpg.Connection, state: Partition, due: _Due) -> None:
        order_ids = due.orders
        missing = [order_id for order_id in order_ids if order_id not in state.tracks]
        if missing:
            state.tracks.update(await self._store.load_tracks(conn, missing))
        tracks = [state.tracks[order_id] for order_id in order_ids if order_id in state.tracks]
        unknown = state.couriers.missing(track.driver_id for track in tracks)
        if unknown:
            state.couriers.load(await self._store.load_couriers(conn, unknown), unknown)
        cases, delivered, touched = self._cases(tracks, state.couriers, ended=due.ended)
        if not touched:
            return
        predicted = await self._consumer.predict(conn, state, cases, delivered)
        await self._store.save_tracks(conn, state.number, touched)
        await self._consumer.finish(conn, state, counts_of(predicted.predictions))
        await self._consumer.publish(conn, state, predicted)
        state.trim(delivered)

    def _cases(
        self, tracks: Iterable[Track], couriers: CourierTable, *, ended: bool
    ) -> tuple[list[Case], list[Track], list[Track]]:
        """What is to be predicted, what was delivered, and the tracks that changed."""
        cases: list[Case] = []
        delivered, touched = [], []
        for track in tracks:
            order = self._book.order(track.order_id)
            ends = order is not None and ended and order.handed_over and not track.over
            if order is None or not (track.awaiting or ends):
                continue
            if not believed(order, track.driver_id, self._book):
                if not order.driver_id:
                    continue
                # What came so far was a stranger's.
                track.restart(order.driver_id)
                if not (ended and order.handed_over):
                    touched.append(track)
                    continue
                ends = True
            touched.append(track)
            track.awaiting = False
            if order.cancelled:
                continue
            if ends:
                track.end(order.delivered_us)
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
