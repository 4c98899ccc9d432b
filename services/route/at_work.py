"""Couriers at work as an allocation sees them: read anew each time, made anew where something changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from waymesh.order.v1.courier_pb2 import Courier
from waymesh.order.v1.order_pb2 import Order
from waymesh.route.v1.route_pb2 import RouteLimits

from services.route import store
from services.route.bodies import from_body
from services.route.fleet import CourierState, OrderWork
from services.route.store import AtWorkRow, Connection
from services.route.translate import courier_state, on_shift, order_work, position_of

_TENANTS: Final = 50

# A courier's message, and the state of the row it was read from.
_Known = tuple[tuple[int, datetime], Courier]


class AtWork:
    """Reads couriers on shift, and what those carry who come into question.

    A fleet has a thousand couriers with some orders each, and an allocation of three orders weighs a few
    dozen of them. How many orders each has, and where everybody is, are columns; messages are read of
    couriers that changed since the last time, and of the orders of those weighed. Kept are couriers of the
    tenants that were asked for last.
    """

    def __init__(self, silent_s: float) -> None:
        self._silent_s = silent_s
        self._known: dict[str, dict[str, _Known]] = {}

    async def couriers(
        self, conn: Connection, tenant: str, now: float, limits: RouteLimits
    ) -> list[CourierState]:
        """A tenant's couriers on shift with a position not older than the fleet's newest by too much.

        What they have on hand is counted, not read; `loaded` does. Age is judged against the newest fix of
        the fleet, not against our clock, so that recordings can be replayed.
        """
        rows = await store.couriers_at_work(conn, tenant)
        messages = await self._messages(conn, tenant, rows)
        found = []
        newest = 0.0
        for row in rows:
            courier = messages[row.driver_id][1]
            where = position_of(courier, row.fix)
            if where is None or not on_shift(courier, now):
                continue
            newest = max(newest, where[1] or 0.0)
            found.append((courier, where, row.orders))
        return [
            courier_state(courier, place, limits, unread)
            for courier, (place, at), unread in found
            if at is None or newest - at <= self._silent_s
        ]

    async def _messages(
        self, conn: Connection, tenant: str, rows: Sequence[AtWorkRow]
    ) -> Mapping[str, _Known]:
        last = self._known.get(tenant, {})
        known = {row.driver_id: last.get(row.driver_id) for row in rows}
        changed = [row for row in rows if (kept := known[row.driver_id]) is None or kept[0] != row.state]
        bodies = await store.courier_bodies(conn, [row.driver_id for row in changed]) if changed else {}
        made = {driver_id: kept for driver_id, kept in known.items() if kept is not None}
        for row in changed:
            made[row.driver_id] = row.state, from_body(Courier, bodies[row.driver_id], row.driver_id)
        # The last one to come is the last one to go.
        self._known.pop(tenant, None)
        self._known[tenant] = made
        if len(self._known) > _TENANTS:
            del self._known[next(iter(self._known))]
        return made


async def loaded(
    conn: Connection, couriers: Sequence[CourierState], driver_ids: Collection[str]
) -> list[CourierState]:
    """Those of the couriers that are named, with the orders they have on hand."""
    carried: dict[str, list[OrderWork]] = {}
    for row in await store.carried(conn, list(driver_ids)):
        carried.setdefault(row.driver_id, []).append(order_work(from_body(Order, row.body, row.order_id)))
    return [
        replace(courier, orders=tuple(carried.get(courier.driver_id, ())), unread=0)
        for courier in couriers
        if courier.driver_id in driver_ids
    ]
