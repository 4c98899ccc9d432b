"""What eta knows of orders and couriers is the newest revision, in whatever order they come, or twice."""

import itertools
from datetime import UTC, datetime
from unittest.mock import Mock

import pytest
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import OrderStatus

from services.eta.arrivals import OrderArrivals
from services.eta.orders import OrderBook
from services.mesh.events import Record
from tests.unit.eta.eta_fleet import order

STATES = [
    order(revision=1, status=OrderStatus.ORDER_STATUS_ASSIGNED, driver_id="driver_1"),
    order(revision=2, status=OrderStatus.ORDER_STATUS_ASSIGNED, driver_id="driver_2"),
    order(revision=4, status=OrderStatus.ORDER_STATUS_PICKED_UP, driver_id="driver_2"),
    order(revision=7, status=OrderStatus.ORDER_STATUS_DELIVERED, driver_id="driver_2"),
]
COURIERS = [Courier(driver_id="driver_1", revision=revision) for revision in (1, 2, 5)]


def record(event: OrderEvent, position: int) -> Record:
    """As any adapter gives it to a broadcast reader."""
    return Record(
        topic="orders",
        key="k",
        value=event.SerializeToString(),
        event_id=f"{position}",
        type=OrderEvent.DESCRIPTOR.full_name,
        partition=0,
        position=position,
        time=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("size", [1, 2, 8])
async def test_an_older_revision_never_wins(size: int) -> None:
    for states in itertools.permutations(STATES):
        book = OrderBook()
        arrivals = OrderArrivals(store=Mock(), book=book, consumer=Mock(), behind=dict)
        events = [record(OrderEvent(order=one), place) for place, one in enumerate([*states, *states])]
        best = 0
        for start in range(0, len(events), size):
            await arrivals.handle(events[start : start + size])
            best = max(best, *(OrderEvent.FromString(e.value).order.revision for e in events[: start + size]))
            known = book.order("order_1")
            assert known is not None
            assert known.revision == best
        assert known.closed
        assert known.driver_id == "driver_2"


def test_an_older_revision_of_a_courier_never_wins() -> None:
    for couriers in itertools.permutations(COURIERS):
        book = OrderBook()
        for courier in [*couriers, *couriers]:
            book.apply([OrderEvent(courier=courier)])
        known = book.courier("driver_1")
        assert known is not None
        assert known.revision == 5


def test_what_is_old_news_changes_nothing() -> None:
    book = OrderBook()
    assert len(book.apply([OrderEvent(order=STATES[3])])) == 1
    assert book.apply([OrderEvent(order=state) for state in STATES]) == []
