"""Whose fixes move an order: its own courier's, by the rule that route has."""

import pytest
from eta_fleet import START_S, columns, fix, order, table_for
from waymesh.gps.v1.gps_pb2 import GpsEvent, TripStage
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.eta.advance import Advance, advance
from services.eta.couriers import NEVER, CourierTable
from services.eta.orders import OrderBook
from services.eta.tracks import Track

AT_PICKUP, DELIVERED = TripStage.TRIP_STAGE_AT_PICKUP, TripStage.TRIP_STAGE_DELIVERED
TO_PICKUP, TO_DESTINATION = TripStage.TRIP_STAGE_TO_PICKUP, TripStage.TRIP_STAGE_TO_DESTINATION
WHOLE, SINGLY = [100], [1] * 20


def book_with(*couriers: str, orders: tuple[Order, ...] = ()) -> OrderBook:
    book = OrderBook()
    book.apply(OrderEvent(courier=Courier(driver_id=one, revision=1)) for one in couriers)
    book.apply(OrderEvent(order=one) for one in orders)
    return book


def free() -> Order:
    return order(driver_id="", status=OrderStatus.ORDER_STATUS_PLACED)


def by(driver_id: str, at_s: float, stage: TripStage.ValueType = TO_DESTINATION) -> GpsEvent:
    return fix(at_s, driver_id=driver_id, trip_stage=stage, north_m=at_s)


def taken(book: OrderBook, events: list[GpsEvent], sizes: list[int]) -> tuple[Track | None, list[Advance]]:
    table, tracks, moves = CourierTable(), dict[str, Track](), []
    for size in sizes:
        batch, events = events[:size], events[size:]
        if batch:
            fixes = columns(*batch)
            table.load({}, table.missing(fixes.driver_id))
            moves.append(advance(fixes, table, tracks, book))
    return tracks.get("order_1"), moves


@pytest.mark.parametrize("sizes", [WHOLE, SINGLY])
def test_who_is_not_the_orders_courier_moves_nothing(sizes: list[int]) -> None:
    book = book_with("driver_1", "driver_2", orders=(order(),))
    events = [by("driver_1", 0, TO_PICKUP), by("driver_2", 10), by("driver_2", 20, DELIVERED)]
    events += [by("driver_1", 30, AT_PICKUP)]
    track, moves = taken(book, events, sizes)
    assert track is not None
    assert (track.driver_id, track.stage, track.picked_up_us) == ("driver_1", AT_PICKUP, NEVER)
    assert not any(move.delivered for move in moves)
    assert {case.driver_id for move in moves for case in move.cases} == {"driver_1"}
    assert sum(len(move.strangers) for move in moves) == 2


@pytest.mark.parametrize("sizes", [WHOLE, SINGLY])
def test_a_free_order_is_taken_by_a_known_courier_who_is_under_way_with_it(sizes: list[int]) -> None:
    book = book_with("driver_1", "driver_2", orders=(free(),))
    events = [by("nobody knows", 0), by("driver_2", 10, TO_PICKUP), by("driver_1", 20, DELIVERED)]
    events += [by("nobody knows", 30, DELIVERED), by("driver_2", 40, AT_PICKUP)]
    track, moves = taken(book, events, sizes)
    assert track is not None
    assert (track.driver_id, track.stage) == ("driver_2", AT_PICKUP)
    assert track.to_pickup_us == (START_S + 10) * 1_000_000
    assert {case.driver_id for move in moves for case in move.cases} == {"driver_2"}
    assert sum(len(move.strangers) for move in moves) == 2


@pytest.mark.parametrize("sizes", [WHOLE, SINGLY])
@pytest.mark.parametrize("orders", [(), (free(),)])
def test_what_is_said_of_an_order_that_nobody_holds_waits_and_the_last_counts(
    orders: tuple[Order, ...], sizes: list[int]
) -> None:
    events = [by("a", 0, AT_PICKUP), by("b", 10), by("a", 20, TO_PICKUP), by("a", 30, DELIVERED)]
    track, moves = taken(book_with(orders=orders), events, sizes)
    assert track is not None
    assert (track.driver_id, track.awaiting, track.at_pickup_us) == ("a", True, NEVER)
    assert track.to_pickup_us == (START_S + 20) * 1_000_000
    assert not any(move.cases or move.delivered or move.strangers for move in moves)


def test_an_order_given_to_another_courier_begins_anew_with_its_fixes() -> None:
    book = book_with("driver_1", "driver_2", orders=(order(),))
    fixes = columns(by("driver_1", 0, AT_PICKUP), by("driver_1", 10))
    tracks: dict[str, Track] = {}
    advance(fixes, table_for(fixes), tracks, book)
    book.apply([OrderEvent(order=order(revision=2, driver_id="driver_2"))])
    fixes = columns(by("driver_1", 20, DELIVERED), by("driver_2", 30, TO_PICKUP))
    moved = advance(fixes, table_for(fixes), tracks, book)
    track = tracks["order_1"]
    assert (track.driver_id, track.stage, track.picked_up_us) == ("driver_2", TO_PICKUP, NEVER)
    assert [case.driver_id for case in moved.cases] == ["driver_2"]
    assert moved.strangers == [0]
