"""Couriers at work as an allocation sees them: read anew each time, made anew where something changed."""

from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1.route_pb2 import RouteLimits

from services.route import store
from services.route.bodies import from_body
from services.route.fleet import CourierState, OrderWork
from services.route.store import Connection
from services.route.translate import courier_state, on_shift, order_work, position_of

T = TypeVar("T")

_TENANTS: Final = 50


class AtWork:
    """Reads couriers on shift and what they carry.

    Rows are few milliseconds for thousands; turning their bytes into what planning sees would take the event
    loop a hundred times as long, at each allocation, so that is kept while the bytes stay the same, of the
    tenants that were asked for last.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._read: dict[str, tuple[_Made[OrderWork], _Made[Courier]]] = {}

    async def couriers(
        self, conn: Connection, tenant: str, now: float, limits: RouteLimits
    ) -> list[CourierState]:
        """A tenant's couriers on shift with a position not older than the fleet's newest by too much.

        Age is judged against the newest fix of the fleet, not against our clock, so that recordings can be
        replayed.
        """
        made_orders, made_couriers = self._made(tenant)
        rows = await store.under_way(conn, tenant)
        works = made_orders.of((order_id, body) for order_id, _, body in rows)
        carried: dict[str, list[OrderWork]] = {}
        for (_, driver_id, _), work in zip(rows, works, strict=True):
            carried.setdefault(driver_id, []).append(work)
        at_work = await store.couriers_at_work(conn, tenant)
        couriers = made_couriers.of((driver_id, body) for driver_id, body, _ in at_work)
        found = []
        newest = 0.0
        for courier, (_, _, fix) in zip(couriers, at_work, strict=True):
            where = position_of(courier, fix)
            if where is None or not on_shift(courier, now):
                continue
            newest = max(newest, where[1] or 0.0)
            found.append((courier, where))
        return [
            courier_state(courier, place, tuple(carried.get(courier.driver_id, ())), limits)
            for courier, (place, at) in found
            if at is None or newest - at <= self._silent_s
        ]

    def _made(self, tenant: str) -> "tuple[_Made[OrderWork], _Made[Courier]]":
        found = self._read.pop(tenant, None) or (_Made(_order), _Made(_courier))
        self._read[tenant] = found
        if len(self._read) > _TENANTS:
            del self._read[next(iter(self._read))]
        return found


class _Made(Generic[T]):
    """What was made of the rows of the last reading, by id."""

    def __init__(self, make: Callable[[bytes, str], T]) -> None:
        self._make = make
        self._last: dict[str, tuple[bytes, T]] = {}

    def of(self, rows: Iterable[tuple[str, bytes]]) -> list[T]:
        """Of each (id, body). Those not among them are forgotten."""
        last, self._last = self._last, {}
        made = []
        for key, body in rows:
            known = last.get(key)
            if known is None or known[0] != body:
                known = body, self._make(body, key)
            self._last[key] = known
            made.append(known[1])
        return made


def _order(body: bytes, order_id: str) -> OrderWork:
    return order_work(from_body(Order, body, order_id))


def _courier(body: bytes, driver_id: str) -> Courier:
    return from_body(Courier, body, driver_id)
