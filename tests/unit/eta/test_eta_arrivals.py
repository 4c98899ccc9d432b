"""A status says from its own time on: fixes before it are those of an order under way, however late they are
read.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from eta_fleet import START_S, book_of, columns, fix, order, table_for
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.eta import arrivals
from services.eta.advance import advance
from services.eta.arrivals import OrderArrivals
from services.eta.consumer import Predicted
from services.eta.couriers import NEVER
from services.eta.orders import OrderBook
from services.eta.partition import Partition
from services.eta.tracks import Track
from services.mesh.events import PROTOBUF, Record

GUARD_S = 30.0
HANDOVER_S = START_S + 600


def delivered() -> Order:
    return order(revision=2, status=OrderStatus.ORDER_STATUS_DELIVERED, delivered_at=HANDOVER_S)


def test_fixes_before_the_handover_are_predicted_although_the_status_is_known() -> None:
    book, tracks = book_of(delivered()), dict[str, Track]()
    fixes = columns(fix(0), fix(300, north_m=1500), fix(599, north_m=2900))
    moved = advance(fixes, table_for(fixes), tracks, book)
    assert [case.phase.name for case in moved.cases] == ["TO_DESTINATION"] * 3
    assert not tracks["order_1"].over
    assert not moved.delivered


def test_the_first_fix_after_the_handover_ends_the_order_at_the_time_of_its_status() -> None:
    book, tracks = book_of(delivered()), dict[str, Track]()
    fixes = columns(fix(0), fix(660, north_m=3000), fix(720, north_m=3000))
    moved = advance(fixes, table_for(fixes), tracks, book)
    assert [case.phase.name for case in moved.cases] == ["TO_DESTINATION", "DONE"]
    assert [track.delivered_us for track in moved.delivered] == [HANDOVER_S * 1_000_000]


class OnePartition:
    """The store and the consumer of a process that holds partition 0, on which order_1 is under way."""

    def __init__(self) -> None:
        self.track = Track("order_1", "driver_1", stage=4, last_us=START_S * 1_000_000)
        self.state = Partition(0, seen_limit=1000)
        self.state.token = uuid.uuid4()
        self.state.tracks["order_1"] = self.track
        self.state.couriers.load({}, ["driver_1"])
        self.partitions = {0: self.state}
        self.looked = 0
        self.ended = asyncio.Event()

    async def due(self, order_ids: Sequence[str], delivered: Sequence[str]) -> dict[int, list[str]]:
        self.looked += bool(delivered)
        return {0: ["order_1"]} if "order_1" in delivered and not self.track.over else {}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield

    async def lock_partition(self, conn: None, partition: int) -> uuid.UUID:
        assert self.state.token is not None
        return self.state.token

    async def save_tracks(self, conn: None, partition: int, tracks: Sequence[Track]) -> None:
        assert tracks == [self.track]

    async def predict(
        self, conn: None, state: Partition, cases: Sequence[Any], ended: Sequence[Track]
    ) -> Predicted:
        assert [case.phase.name for case in cases] == ["DONE"]
        assert ended == [self.track]
        return Predicted([], [])

    async def finish(self, conn: None, state: Partition, counts: Any) -> None:
        return

    async def publish(self, conn: None, state: Partition, predicted: Predicted) -> None:
        self.ended.set()


async def test_a_status_ends_an_order_only_when_all_fixes_sent_before_it_are_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arrivals, "_LOOK_S", 0.01)
    process, behind = OnePartition(), {0: 7}
    store: Any = process
    seeing = OrderArrivals(store=store, book=OrderBook(), consumer=store, behind=lambda: behind)
    value = OrderEvent(order=delivered()).SerializeToString()
    now: Any = None
    record = Record("orders", "order_1", value, "1", "", PROTOBUF, partition=0, position=1, time=now)
    await seeing.handle([record])
    running = asyncio.create_task(seeing.run())
    try:
        async with asyncio.timeout(GUARD_S):
            while process.looked < 5:
                await asyncio.sleep(0.005)
            assert process.track.delivered_us == NEVER
            behind[0] = 0
            await process.ended.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert process.track.delivered_us == HANDOVER_S * 1_000_000
