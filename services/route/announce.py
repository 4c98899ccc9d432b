"""What route publishes: the messages for its topics, each with an id that a repeated publish would have
again."""

from typing import Final

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1.allocation_pb2 import Allocation
from waymesh.route.v1.route_pb2 import RouteOptimization

from services.mesh.events import Message

ORDERS: Final = "orders"
ALLOCATIONS: Final = "driver-allocations"
OPTIMIZATIONS: Final = "route-optimizations"

_ORDER_EVENT: Final = OrderEvent.DESCRIPTOR.full_name
_ALLOCATION: Final = Allocation.DESCRIPTOR.full_name
_OPTIMIZATION: Final = RouteOptimization.DESCRIPTOR.full_name


def order_changed(order: Order) -> Message:
    """The newest state of an order."""
    return Message(
        topic=ORDERS,
        key=order.order_id,
        value=OrderEvent(order=order).SerializeToString(),
        event_id=f"order:{order.order_id}@{order.revision}",
        type=_ORDER_EVENT,
    )


def courier_changed(courier: Courier) -> Message:
    """The newest state of a courier."""
    return Message(
        topic=ORDERS,
        key=courier.driver_id,
        value=OrderEvent(courier=courier).SerializeToString(),
        event_id=f"courier:{courier.driver_id}@{courier.revision}",
        type=_ORDER_EVENT,
    )


def allocated(allocation: Allocation, revision: int) -> Message:
    """An order has a courier; `revision` is the order's new one."""
    return Message(
        topic=ALLOCATIONS,
        key=allocation.order_id,
        value=allocation.SerializeToString(),
        event_id=f"allocation:{allocation.order_id}@{revision}",
        type=_ALLOCATION,
    )


def rerouted(optimization: RouteOptimization, version: int) -> Message:
    """A courier should make the stops in another order; `version` is that of the courier's plan."""
    at = optimization.timestamp
    return Message(
        topic=OPTIMIZATIONS,
        key=optimization.driver_id,
        value=optimization.SerializeToString(),
        event_id=f"route:{optimization.driver_id}@{version}:{at.seconds}.{at.nanos:09d}",
        type=_OPTIMIZATION,
    )
