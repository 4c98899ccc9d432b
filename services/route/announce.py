"""What route publishes: the messages for its topics, each with an id that a repeated publish would have
again."""

from typing import Final

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1.allocation_pb2 import Allocation
from waymesh.route.v1.route_pb2 import RouteOptimization

from services.mesh.events import Message
from services.mesh.events.tenants import event

ORDERS: Final = "orders"
ALLOCATIONS: Final = "driver-allocations"
OPTIMIZATIONS: Final = "route-optimizations"


def order_changed(order: Order) -> Message:
    """The newest state of an order."""
    event_id = f"order:{order.order_id}@{order.revision}"
    return event(ORDERS, order.order_id, OrderEvent(order=order), event_id)


def courier_changed(courier: Courier) -> Message:
    """The newest state of a courier."""
    event_id = f"courier:{courier.driver_id}@{courier.revision}"
    return event(ORDERS, courier.driver_id, OrderEvent(courier=courier), event_id)


def allocated(allocation: Allocation, revision: int) -> Message:
    """An order has a courier; `revision` is the order's new one."""
    event_id = f"allocation:{allocation.order_id}@{revision}"
    return event(ALLOCATIONS, allocation.order_id, allocation, event_id)


def rerouted(optimization: RouteOptimization, version: int) -> Message:
    """A courier should make the stops in another order; `version` is that of the courier's plan."""
    at = optimization.timestamp
    event_id = f"route:{optimization.driver_id}@{version}:{at.seconds}.{at.nanos:09d}"
    return event(OPTIMIZATIONS, optimization.driver_id, optimization, event_id)
