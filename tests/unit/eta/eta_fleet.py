"""Fixes and orders as the tests of eta need them."""

from typing import Any

import numpy as np
from waymesh.gps.v1.gps_pb2 import GpsEvent, TripStage
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.eta.couriers import CourierTable
from services.eta.fixes import Fixes, columns_of
from services.eta.orders import KnownOrder, OrderBook

# 2024-08-28T10:30:00Z
START_S = 1_724_841_000
TO_DESTINATION = TripStage.TRIP_STAGE_TO_DESTINATION
# Metres of one degree of latitude.
DEGREE_M = 111_195.0


def fix(at_s: float = 0.0, **changes: Any) -> GpsEvent:
    """A plain fix, `at_s` seconds after the start; `north_m` moves it."""
    north_m = changes.pop("north_m", 0.0)
    event = GpsEvent(
        driver_id="driver_1",
        order_id="order_1",
        speed_kph=20,
        trip_stage=TO_DESTINATION,
        traffic_density=2,
        zone_type=1,
    )
    event.location.lat, event.location.lon = -23.55 + north_m / DEGREE_M, -46.63
    micros = round((START_S + at_s) * 1e6)
    event.timestamp.seconds, event.timestamp.nanos = micros // 1_000_000, micros % 1_000_000 * 1000
    for name, value in changes.items():
        if name == "anomaly_flags":
            event.anomaly_flags.extend(value)
        else:
            setattr(event, name, value)
    return event


def columns(*events: GpsEvent) -> Fixes:
    return columns_of(events)


def order(order_id: str = "order_1", **changes: Any) -> Order:
    """An order from the start of the fixes to 3 km north of it."""
    made = Order(order_id=order_id, revision=1, status=OrderStatus.ORDER_STATUS_ASSIGNED)
    made.driver_id = "driver_1"
    made.pickup.lat, made.pickup.lon = -23.55, -46.63
    made.dropoff.lat, made.dropoff.lon = -23.55 + 3000 / DEGREE_M, -46.63
    made.placed_at.seconds = START_S - 600
    for name, value in changes.items():
        if name.endswith("_at"):
            getattr(made, name).seconds = value
        else:
            setattr(made, name, value)
    return made


def known(made: Order) -> KnownOrder:
    return KnownOrder.of(made)


def book_of(*orders: Order) -> OrderBook:
    book = OrderBook()
    book.apply([OrderEvent(order=one) for one in orders])
    return book


def table_for(fixes: Fixes) -> CourierTable:
    """A table with a row for each courier of the fixes, all new."""
    table = CourierTable()
    table.load({}, table.missing(fixes.driver_id))
    return table


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)
