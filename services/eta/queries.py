"""Answers to those who ask: orders under way by their id, or orders about to be placed by their content."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from waymesh.eta.v1.eta_pb2 import EtaPrediction, EtaQuery
from waymesh.mesh.v1.degradation_pb2 import Degradation
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_NOT_READ_YET,
    ERROR_REASON_ORDER_UNKNOWN,
    ERROR_REASON_POSITION_UNKNOWN,
    ERROR_REASON_STATUS_CONFLICT,
)

from services.eta.answers import answer
from services.eta.cases import Case
from services.eta.couriers import COURIER, NEVER
from services.eta.holders import believed
from services.eta.learning import Learned
from services.eta.orders import KnownOrder, OrderBook, micros
from services.eta.partition import Partition
from services.eta.predict import Phase
from services.eta.store import EtaStore
from services.eta.tracks import Track, phase_of
from services.mesh.deadline import grant
from services.mesh.errors import FailedPrecondition, MeshError, NotFound, Unavailable
from services.mesh.store import is_transient

log = logging.getLogger(__name__)

# Orders predicted between two turns of the event loop.
_SLICE: Final = 250
# A store that takes longer does not answer in time for those who wait for an answer.
_STORE_S: Final = 1.0
# When to ask again for an order that may be among those not read yet, in seconds.
_READING_S: Final = 2.0
_MEMORY: Final = "eta.remembered_positions"
_NOWHERE: Final = (float("nan"), float("nan"))
_PLACE: Final = {name: place for place, name in enumerate(COURIER.names or ())}


@dataclass(frozen=True, slots=True)
class Answers:
    """A prediction, or why there is none, for each query."""

    results: list[EtaPrediction | MeshError]
    degradation: Degradation | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the store knows of the asked orders and couriers."""

    tracks: dict[str, Track]
    couriers: dict[str, tuple[Any, ...]]


class EtaQueries:
    """Predicts on request; changes nothing."""

    def __init__(
        self,
        *,
        store: EtaStore,
        book: OrderBook,
        learned: Callable[[], Learned],
        partitions: Callable[[], Sequence[Partition]],
        orders_read: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`orders_read` says whether the book holds all orders there were when this process began."""
        self._orders_read = orders_read
        self._store = store
        self._book = book
        self._learned = learned
        self._partitions = partitions
        self._clock = clock

    async def predict(self, queries: Sequence[EtaQuery]) -> Answers:
        """Answer every query; while the store is away, from what this process remembers."""
        order_ids = _each(_order_id(query) for query in queries)
        degradation = None
        try:
            async with asyncio.timeout(grant(_STORE_S)):
                seen = await self._look_up(order_ids, queries)
        except Exception as error:
            if not isinstance(error, TimeoutError) and not is_transient(error):
                raise
            log.warning("predictions come from memory: %s", type(error).__name__)
            seen = self._remembered(order_ids, queries)
            degradation = Degradation(source=_MEMORY, reason="store: UNAVAILABLE")
        results: list[EtaPrediction | MeshError] = []
        for start in range(0, len(queries), _SLICE):
            if start:
                await asyncio.sleep(0)
            results += self._slice(queries[start : start + _SLICE], seen)
        return Answers(results, degradation)

    async def _look_up(self, order_ids: Sequence[str], queries: Sequence[EtaQuery]) -> _Seen:
        tracks = await self._store.load_tracks(self._store.pool, order_ids) if order_ids else {}
        drivers = self._drivers(order_ids, queries, tracks)
        couriers = await self._store.load_couriers(self._store.pool, drivers) if drivers else {}
        return _Seen(tracks, couriers)

    def _remembered(self, order_ids: Sequence[str], queries: Sequence[EtaQuery]) -> _Seen:
        partitions = self._partitions()
        tracks = {
            one: track
            for one in order_ids
            for part in partitions
            if (track := part.tracks.get(one)) is not None
        }
        couriers = {
            driver: tuple(row[0].item())
            for driver in self._drivers(order_ids, queries, tracks)
            for part in partitions
            if (row := part.couriers.find(driver)) is not None
        }
        return _Seen(tracks, couriers)

    def _drivers(
        self, order_ids: Sequence[str], queries: Sequence[EtaQuery], tracks: Mapping[str, Track]
    ) -> list[str]:
        """Every courier that a query may be about."""
        drivers = {query.driver_id or query.order.driver_id for query in queries}
        drivers |= {track.driver_id for track in tracks.values()}
        drivers |= {order.driver_id for one in order_ids if (order := self._book.order(one)) is not None}
        return _each(drivers)

    def _slice(self, queries: Sequence[EtaQuery], seen: _Seen) -> list[EtaPrediction | MeshError]:
        now_us = int(self._clock() * 1e6)
        results: list[EtaPrediction | MeshError | None] = []
        cases: list[Case] = []
        for query in queries:
            try:
                cases.append(self._case(query, seen, now_us))
                results.append(None)
            except MeshError as error:
                results.append(error)
        # The same order may be asked about twice with different assumptions: answers of one call hold nothing
        # against each other.
        predictions = iter(answer(cases, self._learned(), chained=False))
        return [next(predictions) if result is None else result for result in results]

    def _case(self, query: EtaQuery, seen: _Seen, now_us: int) -> Case:
        order = self._order(query)
        track = seen.tracks.get(order.order_id)
        if track is not None and not believed(order, track.driver_id, self._book):
            track = None
        phase = phase_of(order, track)
        assigned = track.driver_id if track is not None else order.driver_id
        driver_id = query.driver_id or assigned
        supposed = bool(query.driver_id) and query.driver_id != assigned
        if supposed and phase < Phase.TO_DESTINATION:
            # Who would carry it starts from where they are, whoever is under way now.
            phase, track = Phase.TO_PICKUP, None
        row = seen.couriers.get(driver_id)
        here, here_us = self._position(query, driver_id, row)
        picked_up_us = _first_known(track.picked_up_us if track is not None else NEVER, order.picked_up_us)
        if here is None and phase in (Phase.TO_DESTINATION, Phase.AT_DESTINATION) and picked_up_us != NEVER:
            here, here_us = order.pickup, picked_up_us
        if here is None and (query.driver_id or phase in (Phase.TO_DESTINATION, Phase.AT_DESTINATION)):
            raise FailedPrecondition(
                "no position of the courier is known yet",
                reason=ERROR_REASON_POSITION_UNKNOWN,
                metadata={"order_id": order.order_id},
            )
        known = self._book.courier(driver_id)
        case = Case(
            order=order,
            driver_id=driver_id,
            phase=phase,
            as_of_us=self._as_of(query, order, track, here_us, now_us),
            here=here or _NOWHERE,
            vehicle=known.vehicle if known is not None else 0,
            picked_up_us=picked_up_us,
            delivered_us=order.delivered_us,
            context=query.context if query.HasField("context") else None,
        )
        if row is not None:
            case.run_m, case.run_s = row[_PLACE["run_m"]], row[_PLACE["run_s"]]
            case.vehicle = row[_PLACE["vehicle"]] or case.vehicle
            case.traffic = row[_PLACE["traffic"]]
        if track is not None:
            case.since_us = track.stage_us
            case.delivered_us = _first_known(track.delivered_us, order.delivered_us)
            if not query.HasField("courier_location") and not query.HasField("context"):
                # The same question as the fixes ask: the same answer, as long as nothing has changed.
                case.fresh = False
                case.shown_pickup_us, case.shown_delivery_us = track.shown_pickup_us, track.shown_delivery_us
        return case

    def _order(self, query: EtaQuery) -> KnownOrder:
        if query.HasField("order"):
            order: KnownOrder | None = KnownOrder.of(query.order)
        else:
            order = self._book.order(query.order_id)
        if order is None and not self._orders_read():
            raise Unavailable(
                f"order {query.order_id} is not known yet: the topic of orders is still being read",
                reason=ERROR_REASON_NOT_READ_YET,
                metadata={"topic": "orders"},
                retry_after_s=_READING_S,
            )
        if order is None:
            raise NotFound(
                f"order {query.order_id} is not known",
                reason=ERROR_REASON_ORDER_UNKNOWN,
                metadata={"order_id": query.order_id},
            )
        if order.cancelled:
            raise FailedPrecondition(
                "the order was cancelled",
                reason=ERROR_REASON_STATUS_CONFLICT,
                metadata={"order_id": order.order_id, "status": "cancelled"},
            )
        return order

    def _position(
        self, query: EtaQuery, driver_id: str, row: tuple[Any, ...] | None
    ) -> tuple[tuple[float, float] | None, int]:
        """Where the courier is, and when that was so: as asked, by the fixes, by route's record."""
        by_fixes = row[_PLACE["usable_us"]] if row is not None else NEVER
        if query.HasField("courier_location"):
            place = query.courier_location
            return (place.lat, place.lon), by_fixes
        if row is not None and by_fixes != NEVER:
            return (row[_PLACE["usable_lat"]], row[_PLACE["usable_lon"]]), by_fixes
        known = self._book.courier(driver_id)
        if known is not None and known.position is not None:
            return known.position, known.position_us
        return None, NEVER

    def _as_of(
        self, query: EtaQuery, order: KnownOrder, track: Track | None, here_us: int, now_us: int
    ) -> int:
        if query.HasField("as_of"):
            return micros(query.as_of)
        if here_us == NEVER:
            return now_us
        # An order that no fix has told of cannot be under way before it was placed.
        return here_us if track is not None else max(here_us, order.placed_us)


def _order_id(query: EtaQuery) -> str:
    return query.order.order_id if query.HasField("order") else query.order_id


def _each(ids: Iterable[str]) -> list[str]:
    """Each id once; an empty one is none."""
    return list({one for one in ids if one})


def _first_known(*times_us: int) -> int:
    return next((one for one in times_us if one != NEVER), NEVER)
