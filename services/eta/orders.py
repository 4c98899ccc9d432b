"""The orders and couriers that eta knows of, as the topic `orders` tells them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.order.v1.context_pb2 import DeliveryContext
from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.events_pb2 import OrderEvent
from waymesh.order.v1.order_pb2 import Order, OrderStatus

from services.eta.couriers import NEVER
from services.eta.fixes import MAX_SECONDS, MIN_SECONDS

# Orders that are over stay known for late questions and late fixes; beyond this many the oldest are
# forgotten.
_CLOSED_KEPT: Final = 50_000


def micros(stamp: Timestamp) -> int:
    """µs since 1970; a time that RFC 3339 cannot write counts as the nearest that it can."""
    seconds = min(max(stamp.seconds, MIN_SECONDS), MAX_SECONDS)
    return seconds * 1_000_000 + stamp.nanos // 1000


@dataclass(frozen=True, slots=True)
class KnownOrder:
    """An order, read out once. Times are µs since 1970, NEVER if absent."""

    order_id: str
    revision: int
    status: int
    driver_id: str
    pickup: tuple[float, float]
    """Degrees north and east."""
    dropoff: tuple[float, float]
    placed_us: int
    ready_us: int
    earliest_us: int
    latest_us: int
    picked_up_us: int
    delivered_us: int
    merchant_id: str
    area: str
    context: DeliveryContext

    @classmethod
    def of(cls, order: Order) -> "KnownOrder":
        window = order.promised_window
        context = order.context

        def time(has: bool, stamp: Timestamp) -> int:
            return micros(stamp) if has else NEVER

        return cls(
            order_id=order.order_id,
            revision=order.revision,
            status=order.status,
            driver_id=order.driver_id,
            pickup=(order.pickup.lat, order.pickup.lon),
            dropoff=(order.dropoff.lat, order.dropoff.lon),
            placed_us=micros(order.placed_at),
            ready_us=time(order.HasField("ready_at"), order.ready_at),
            earliest_us=time(window.HasField("earliest"), window.earliest),
            latest_us=time(window.HasField("latest"), window.latest),
            picked_up_us=time(order.HasField("picked_up_at"), order.picked_up_at),
            delivered_us=time(order.HasField("delivered_at"), order.delivered_at),
            merchant_id=order.merchant.merchant_id or context.merchant_id,
            area=context.area,
            context=context,
        )

    @property
    def closed(self) -> bool:
        """Delivered or cancelled."""
        return self.status in (OrderStatus.ORDER_STATUS_DELIVERED, OrderStatus.ORDER_STATUS_CANCELLED)

    @property
    def handed_over(self) -> bool:
        """Delivered, and it is known when."""
        return self.status == OrderStatus.ORDER_STATUS_DELIVERED and self.delivered_us != NEVER

    @property
    def cancelled(self) -> bool:
        return self.status == OrderStatus.ORDER_STATUS_CANCELLED


@dataclass(frozen=True, slots=True)
class KnownCourier:
    """A courier, read out once."""

    driver_id: str
    revision: int
    vehicle: int
    position: tuple[float, float] | None
    position_us: int

    @classmethod
    def of(cls, courier: Courier) -> "KnownCourier":
        place = courier.position
        return cls(
            driver_id=courier.driver_id,
            revision=courier.revision,
            vehicle=courier.vehicle_type,
            position=(place.lat, place.lon) if courier.HasField("position") else None,
            position_us=micros(courier.position_at) if courier.HasField("position_at") else NEVER,
        )


class OrderBook:
    """Newest state of each order and courier."""

    def __init__(self) -> None:
        self._orders: dict[str, KnownOrder] = {}
        self._couriers: dict[str, KnownCourier] = {}
        self._closed: dict[str, None] = {}

    def order(self, order_id: str) -> KnownOrder | None:
        return self._orders.get(order_id)

    def courier(self, driver_id: str) -> KnownCourier | None:
        return self._couriers.get(driver_id)

    def apply(self, events: Iterable[OrderEvent]) -> list[KnownOrder]:
        """Take in events; gives the orders that are new or changed. Older revisions change nothing."""
        changed: dict[str, KnownOrder] = {}
        for event in events:
            if event.HasField("order"):
                order = KnownOrder.of(event.order)
                before = self._orders.get(order.order_id)
                if before is None or before.revision < order.revision:
                    self._orders[order.order_id] = order
                    changed[order.order_id] = order
                    if order.closed:
                        self._close(order.order_id)
            elif event.HasField("courier"):
                courier = KnownCourier.of(event.courier)
                known = self._couriers.get(courier.driver_id)
                if known is None or known.revision < courier.revision:
                    self._couriers[courier.driver_id] = courier
        return list(changed.values())

    def _close(self, order_id: str) -> None:
        self._closed[order_id] = None
        if len(self._closed) > _CLOSED_KEPT:
            oldest = next(iter(self._closed))
            del self._closed[oldest]
            self._orders.pop(oldest, None)
