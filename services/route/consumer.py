"""Events in: fixes move orders and positions, commands are taken in like RPCs, news set off what follows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from waymesh.gps.v1.gps_pb2 import GpsEvent
from waymesh.order.v1.events_pb2 import OrderCommand, OrderEvent
from waymesh.order.v1.order_pb2 import Order

from services.mesh.arrival import arrived_us
from services.mesh.chain.server.validation import check
from services.mesh.events import (
    EventBus,
    Message,
    PoisonMessage,
    Record,
    cause_of,
    causes_of,
    decode_value,
    tenants,
)
from services.mesh.principal import TENANT_KEY
from services.mesh.request_id import serving
from services.mesh.tenancy import plain_error, qualify_message, tenant_of
from services.route import announce, refusals, store, store_plans
from services.route.bodies import from_body
from services.route.deviation import has_left
from services.route.fixes import Folded, fold, freed
from services.route.identity import Status
from services.route.intake import Change, take_orders
from services.route.progress import advance, concerns
from services.route.reroute import Rerouter
from services.route.store import Connection
from services.route.translate import order_write
from services.route.travel import Place

GPS_EVENTS: Final = "gps-events"
ORDER_COMMANDS: Final = "order-commands"
# Couriers whose stage is remembered to see them become free.
_REMEMBERED: Final = 100_000

_Read: TypeAlias = tuple[GpsEvent, Record]


class FixConsumer:
    """Handles batches of fixes, each in the transaction that also takes them as read.

    Every effect is a newest value or a step forward, so fixes that come twice or late change nothing.
    """

    def __init__(self, bus: EventBus, rerouter: Rerouter, allocate_soon: Callable[[], None]) -> None:
        self._bus = bus
        self._rerouter = rerouter
        self._allocate_soon = allocate_soon
        self._stages: dict[str, int] = {}

    async def handle(self, conn: Connection, records: list[Record]) -> None:
        """One batch. What cannot be read is left out; eta, whose events these are, puts it to the dead
        letters."""
        fixes = list(_fixes(records))
        folded = fold((event for event, _ in fixes), (arrived_us(record.time) for _, record in fixes))
        if not folded.newest:
            return
        messages = await self._move_orders(conn, folded, fixes)
        await store.save_positions(conn, folded.newest)
        await self._look_at_ways(conn, folded, fixes)
        if len(self._stages) > _REMEMBERED:
            self._stages.clear()
        if freed(folded, self._stages):
            self._allocate_soon()
        if messages:
            await self._bus.publish(conn, messages)

    async def _move_orders(self, conn: Connection, folded: Folded, fixes: Sequence[_Read]) -> list[Message]:
        """Orders that are further than we knew. Most batches move none: they are read without a lock
        first."""
        steps = folded.progress
        known = await store.orders(conn, list({order_id for order_id, _ in steps}))
        moving = [
            (order_id, driver_id)
            for (order_id, driver_id), step in steps.items()
            if (row := known.get(order_id)) is not None
            and concerns(row.status, row.driver_id, driver_id, step)
        ]
        if not moving:
            return []
        rows = await store.lock_orders(conn, {order_id for order_id, _ in moving})
        couriers = await store.known_couriers(conn, list({driver_id for _, driver_id in moving}))
        newest = {row.order_id: from_body(Order, row.body, row.order_id) for row in rows.values()}
        ids = {order_id for order_id, _ in moving}
        causes = causes_of((event.order_id, record) for event, record in fixes if event.order_id in ids)
        writes, messages = [], []
        for order_id, driver_id in moving:
            order = newest.get(order_id)
            if order is None:
                continue
            moved = advance(order, driver_id, steps[order_id, driver_id], courier_known=driver_id in couriers)
            if moved is not None:
                newest[order_id] = moved
                writes.append(order_write(moved))
                with serving(causes[order_id]):
                    messages.append(announce.order_changed(moved))
        await store.write_orders(conn, writes)
        return messages

    async def _look_at_ways(self, conn: Connection, folded: Folded, fixes: Sequence[_Read]) -> None:
        legs = await store_plans.legs(conn, list(folded.newest))
        causes = causes_of((event.driver_id, record) for event, record in fixes if event.driver_id in legs)
        for driver_id, (origin, target) in legs.items():
            fix = folded.newest[driver_id]
            here = Place(fix.lat, fix.lon)
            with serving(causes[driver_id]):
                if driver_id in folded.congested:
                    self._rerouter.wish(driver_id, "traffic", seen=here)
                elif has_left(Place(*origin), Place(*target), here):
                    self._rerouter.wish(driver_id, "the courier left the planned way", seen=here)


class CommandConsumer:
    """Handles writes to orders from those who have no RPC client."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def handle(self, conn: Connection, records: list[Record]) -> None:
        """One batch. What is refused goes to the dead letters with the reason, and the rest goes on."""
        changes = [_change(record) for record in records]
        taken, messages = await take_orders(conn, changes, [cause_of(record) for record in records])
        for record, result in zip(records, taken, strict=True):
            if result.error is not None:
                told = plain_error(result.error, tenant_of(result.id))
                reason = f"{told.reason_name}: {told.message}"
                await self._bus.dead_letter(conn, record, reason)
        if messages:
            await self._bus.publish(conn, messages)


class ChangeConsumer:
    """Handles route's own news of orders and couriers: what they set off must see them committed, so it is
    set off from here and not from where they were written."""

    def __init__(self, rerouter: Rerouter, allocate_soon: Callable[[], None]) -> None:
        self._rerouter = rerouter
        self._allocate_soon = allocate_soon

    async def handle(self, conn: Connection, records: list[Record]) -> None:
        """One batch: allocation for those who wait or have become free, another look for those who carry."""
        for record in records:
            event = tenants.read(record, OrderEvent)
            if event.WhichOneof("entity") is None:
                raise PoisonMessage(record, "entity: names neither an order nor a courier")
            order = event.order
            if not event.HasField("order") or Status(order.status) is not Status.ASSIGNED:
                self._allocate_soon()
            if order.driver_id:
                with serving(cause_of(record)):
                    self._rerouter.wish(order.driver_id, "orders changed", at_once=True)


def _fixes(records: Sequence[Record]) -> Iterator[_Read]:
    for record in records:
        try:
            event = decode_value(record, GpsEvent)
            # Of most fixes `tenants.read` would find nothing to do, for a tenth of what a fix takes in all.
            if TENANT_KEY in record.headers or "/" in event.driver_id or "/" in event.order_id:
                qualify_message(event, tenants.tenant_of(record))
        except PoisonMessage:
            continue
        yield event, record


def _change(record: Record) -> Change:
    """The write a record asks for. Raises PoisonMessage if it is none, or breaks a rule of the contract."""
    command = tenants.read(record, OrderCommand, check)
    if command.WhichOneof("command") == "cancel":
        return command.cancel
    if (wrong := refusals.order_fault(command.upsert, "upsert")) is not None:
        raise PoisonMessage(record, wrong.message)
    return command.upsert
